// The one-pass loss on activations of double.
#include "cuda/launch.cuh"
// cuda/launch.cuh first: it defines the launch
#include "cuda/onepass/launch.cuh"

namespace fastcam {

template bool launch_pass_of<double>(const CamLossForward&, bool, int, const LaunchSite&);

}  // namespace fastcam
