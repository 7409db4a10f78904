// Chooses the Grad-CAM kernels for the processor at hand, once.
#include "cpu/isa/isa.h"
#include "cpu/kernels/cam.h"

namespace fastcam {

const CamKernels& cam_kernels() { return FASTCAM_CHOOSE(kCamKernels); }

int64_t cam_forward_scratch_bytes(const CamInputs& in) {
  return kTargetBlock * padded_row_bytes(in.cells);
}

int64_t cam_backward_scratch_bytes(const CamBackward& op) {
  return op.targets * (padded_row_bytes(op.cells) + 1);
}

}  // namespace fastcam
