// The one-pass loss on activations of half.
#include "launch.cuh"
// launch.cuh first: it defines the launch
#include "pass_launch.cuh"

namespace fastcam {

FASTCAM_DEFINE_LAUNCH_PASS(Half)

}  // namespace fastcam
