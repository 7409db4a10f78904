// The CPU kernels of Grad-CAM and its losses: one table of functions for each instruction set.
// No torch in here, so CMake builds and tests them alone.
#pragma once

#include "common/params.h"
#include "common/storage.h"

namespace fastcam {

// Targets that share one read of the activations.
inline constexpr int kTargetBlock = 4;

// `begin` and `end` count units of work: samples for the forward kernels, (sample, channel block)
// pairs for the backward. `scratch` holds *_scratch_bytes(...) bytes for the calling thread alone,
// aligned to 64.
struct CamKernels {
  const char* isa;
  void (*cam_forward)(const CamForward&, ScalarKind activations, ScalarKind gradients,
                      int64_t begin, int64_t end, void* scratch);
  void (*cam_iou_forward)(const CamLossForward&, ScalarKind activations, ScalarKind gradients,
                          int64_t begin, int64_t end, void* scratch);
  void (*cam_backward)(const CamBackward&, ScalarKind activations, int64_t channel_blocks,
                       int64_t begin, int64_t end, void* scratch);
};

int64_t cam_forward_scratch_bytes(const CamInputs& in);
int64_t cam_backward_scratch_bytes(const CamBackward& in);

// The best table this processor runs; FASTCAM_CPU_ISA=baseline|avx2 in the environment asks
// for a lesser one.
const CamKernels& cam_kernels();

#if defined(__x86_64__)
namespace avx512 {
extern const CamKernels kCamKernels;
}
namespace avx2 {
extern const CamKernels kCamKernels;
}
#endif
namespace baseline {
extern const CamKernels kCamKernels;
}

}  // namespace fastcam
