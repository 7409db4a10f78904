// The one-pass loss on activations of bfloat16.
#include "launch.cuh"
// launch.cuh first: it defines the launch
#include "pass_launch.cuh"

namespace fastcam {

FASTCAM_DEFINE_LAUNCH_PASS(BFloat16)

}  // namespace fastcam
