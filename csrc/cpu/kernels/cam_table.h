// The table of the Grad-CAM kernels for the instruction set FASTCAM_ISA: run-time types become
// compile-time ones.
#pragma once

#include "cpu/kernels/cam_backward.h"
#include "cpu/kernels/cam_loss.h"

namespace fastcam::FASTCAM_ISA {

// D comes in the activations' storage type or in the arithmetic type.
template <class F>
FASTCAM_INLINE void with_storages(ScalarKind activations, ScalarKind gradients, const F& f) {
  with_storage(activations, [&](auto a) {
    using Acc = AccOf<decltype(a)>;
    if (gradients == activations) {
      f(Acc{}, a, a);
    } else {
      f(Acc{}, a, Acc{});
    }
  });
}

const CamKernels kCamKernels = {
    FASTCAM_ISA_NAME,
    [](const CamForward& op, ScalarKind a, ScalarKind d, int64_t begin, int64_t end,
       void* scratch) {
      with_storages(a, d, [&](auto acc, auto sa, auto sd) {
        cam_forward<decltype(acc), decltype(sa), decltype(sd)>(op, begin, end, scratch);
      });
    },
    [](const CamLossForward& op, ScalarKind a, ScalarKind d, int64_t begin, int64_t end,
       void* scratch) {
      with_storages(a, d, [&](auto acc, auto sa, auto sd) {
        cam_iou_forward<decltype(acc), decltype(sa), decltype(sd)>(op, begin, end, scratch);
      });
    },
    [](const CamBackward& op, ScalarKind a, int64_t channel_blocks, int64_t begin, int64_t end,
       void* scratch) {
      with_storage(a, [&](auto s) {
        cam_backward<AccOf<decltype(s)>, decltype(s)>(op, channel_blocks, begin, end, scratch);
      });
    },
};

}  // namespace fastcam::FASTCAM_ISA
