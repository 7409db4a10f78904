// The one-pass loss on activations of double.
#include "cuda/launch.cuh"
// launch.cuh first: it defines the launch
#include "cuda/onepass/launch.cuh"

namespace fastcam {

FASTCAM_DEFINE_LAUNCH_PASS(double)

}  // namespace fastcam
