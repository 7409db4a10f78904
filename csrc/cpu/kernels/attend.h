// The CPU kernels of the tone curve and of attend: one table of functions for each instruction set.
#pragma once

#include "common/params.h"
#include "common/storage.h"

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

// Channels that attend's backward takes at once: their features, the gradient with respect to them
// and what is streamed fit into a first-level cache of 32 KB.
int64_t attend_block_channels(int64_t cells);

// Rows that attend's forward pools at once under several curves.
inline constexpr int kAttendRows = 4;

int64_t attend_scratch_bytes(int64_t cells);

const AttendKernels& attend_kernels();

#if defined(__x86_64__)
namespace avx512 {
extern const AttendKernels kAttendKernels;
}
namespace avx2 {
extern const AttendKernels kAttendKernels;
}
#endif
namespace baseline {
extern const AttendKernels kAttendKernels;
}

}  // namespace fastcam
