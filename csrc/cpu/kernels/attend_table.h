// The table of the tone-curve and attend kernels for the instruction set FASTCAM_ISA: run-time
// types become compile-time ones.
#pragma once

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
