// The CPU kernels of Grad-CAM and its losses: one table of functions for each instruction set, with
// its entries where FASTCAM_ISA names one (cpu/isa/).
// No torch in here, so CMake builds and tests them alone.
#pragma once

#include "common/storage.h"
#include "cpu/isa/tables.h"
#include "cpu/kernels/scratch.h"

namespace fastcam {

// `begin` and `end` count units of work: samples, or (sample, channel block) pairs where a kernel
// takes a number of channel blocks. `scratch` holds cam_scratch_bytes(...) bytes for the calling
// thread alone, `parts` as many for each (sample, channel block), both aligned to 64.
struct CamKernels {
  const char* isa;
  void (*cam_forward)(const CamForward&, ScalarKind activations, ScalarKind gradients,
                      int64_t begin, int64_t end, void* scratch);
  // A loss with all its gradients. Where samples are few, their channels are shared: the maps of
  // the blocks, then the values, then cam_backward for d loss / d D.
  void (*cam_loss_forward)(const CamLossForward&, ScalarKind activations, ScalarKind gradients,
                           int64_t begin, int64_t end, void* scratch);
  void (*cam_loss_maps)(const CamLoss&, ScalarKind activations, ScalarKind gradients,
                        int64_t channel_blocks, int64_t begin, int64_t end, void* parts);
  void (*cam_loss_values)(const CamLoss&, ScalarKind activations, int64_t channel_blocks,
                          int64_t begin, int64_t end, void* parts);
  void (*cam_backward)(const CamBackward&, ScalarKind activations, int64_t channel_blocks,
                       int64_t begin, int64_t end, void* scratch);
};

// The best table this processor runs; FASTCAM_CPU_ISA=baseline|avx2 in the environment asks
// for a lesser one.
const CamKernels& cam_kernels();

FASTCAM_DECLARE_TABLES(CamKernels, kCamKernels)

}  // namespace fastcam

#ifdef FASTCAM_ISA
// The entries: run-time types become compile-time ones.
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
        cam_loss_forward<decltype(acc), decltype(sa), decltype(sd)>(op, begin, end, scratch);
      });
    },
    [](const CamLoss& op, ScalarKind a, ScalarKind d, int64_t channel_blocks, int64_t begin,
       int64_t end, void* parts) {
      with_storages(a, d, [&](auto acc, auto sa, auto sd) {
        cam_loss_maps<decltype(acc), decltype(sa), decltype(sd)>(op, channel_blocks, begin, end,
                                                                 parts);
      });
    },
    [](const CamLoss& op, ScalarKind a, int64_t channel_blocks, int64_t begin, int64_t end,
       void* parts) {
      with_acc(a, [&](auto acc) {
        cam_loss_values<decltype(acc)>(op, channel_blocks, begin, end, parts);
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
#endif
