// The one-pass loss on activations of float.
#include "cuda/launch.cuh"
// cuda/launch.cuh first: it defines the launch
#include "cuda/onepass/launch.cuh"

namespace fastcam {

template bool launch_pass_of<float>(const CamLossForward&, bool, int, const LaunchSite&);

}  // namespace fastcam
