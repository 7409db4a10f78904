// The one-pass loss on activations of bfloat16.
#include "cuda/launch.cuh"
// cuda/launch.cuh first: it defines the launch
#include "cuda/onepass/launch.cuh"

namespace fastcam {

template bool launch_pass_of<BFloat16>(const CamLossForward&, bool, int, const LaunchSite&);

}  // namespace fastcam
