// The one-pass loss on activations of double.
#include "launch.cuh"
// launch.cuh first: it defines the launch
#include "pass_launch.cuh"

namespace fastcam {

FASTCAM_DEFINE_LAUNCH_PASS(double)

}  // namespace fastcam
