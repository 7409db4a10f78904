#include "emulated_ops.h"

namespace fastcam {

FASTCAM_DEFINE_LAUNCH_PASS(float)

}  // namespace fastcam
