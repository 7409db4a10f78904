#include "emulated_ops.h"

namespace fastcam {

FASTCAM_DEFINE_LAUNCH_PASS(BFloat16)

}  // namespace fastcam
