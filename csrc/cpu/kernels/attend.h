// The CPU kernels of the tone curve and of attend: one table of functions for each instruction set,
// as cpu/kernels/cam.h.
#pragma once

#include "common/storage.h"
#include "cpu/isa/tables.h"
#include "cpu/kernels/scratch.h"

namespace fastcam {

// Units of work: elements (tone curve), rows (n, k, c) (attend forward), channels (n, c)
// (backward). `scratch` holds attend_scratch_bytes(...) bytes for the calling thread alone, aligned
// to 64.
struct AttendKernels {
  void (*tone_curve)(const ToneCurveOp&, ScalarKind, int64_t begin, int64_t end);
  void (*tone_curve_backward)(const ToneCurveOp&, ScalarKind, int64_t begin, int64_t end);
  void (*attend_forward)(const AttendForward&, ScalarKind, int64_t begin, int64_t end,
                         void* scratch);
  void (*attend_backward)(const AttendBackward&, ScalarKind, int64_t begin, int64_t end,
                          void* scratch);
};

const AttendKernels& attend_kernels();

FASTCAM_DECLARE_TABLES(AttendKernels, kAttendKernels)

}  // namespace fastcam

#ifdef FASTCAM_ISA
// The entries: run-time types become compile-time ones.
#include "cpu/kernels/attend_backward.h"
#include "cpu/kernels/attend_forward.h"
#include "cpu/kernels/tone_curve.h"

namespace fastcam::FASTCAM_ISA {

const AttendKernels kAttendKernels = {
    [](const ToneCurveOp& op, ScalarKind kind, int64_t begin, int64_t end) {
      with_storage(kind,
                   [&](auto s) { tone_curve<AccOf<decltype(s)>, decltype(s)>(op, begin, end); });
    },
    [](const ToneCurveOp& op, ScalarKind kind, int64_t begin, int64_t end) {
      with_storage(kind, [&](auto s) {
        tone_curve_backward<AccOf<decltype(s)>, decltype(s)>(op, begin, end);
      });
    },
    [](const AttendForward& op, ScalarKind kind, int64_t begin, int64_t end, void* scratch) {
      with_storage(kind, [&](auto s) {
        attend_forward<AccOf<decltype(s)>, decltype(s)>(op, begin, end, scratch);
      });
    },
    [](const AttendBackward& op, ScalarKind kind, int64_t begin, int64_t end, void* scratch) {
      with_storage(kind, [&](auto s) {
        attend_backward<AccOf<decltype(s)>, decltype(s)>(op, begin, end, scratch);
      });
    },
};

}  // namespace fastcam::FASTCAM_ISA
#endif
