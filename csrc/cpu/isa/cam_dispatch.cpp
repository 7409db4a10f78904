// Chooses the Grad-CAM kernels for the processor at hand, once.
#include "cpu/isa/isa.h"
#include "cpu/kernels/cam.h"

namespace fastcam {

const CamKernels& cam_kernels() { return FASTCAM_CHOOSE(kCamKernels); }

int64_t cam_scratch_bytes(int64_t targets, int64_t cells) {
  return targets * (padded_row_bytes(cells) + 1);
}

}  // namespace fastcam
