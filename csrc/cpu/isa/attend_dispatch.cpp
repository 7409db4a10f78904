// Chooses the kernels of the tone curve and of attend for the processor at hand, once.
#include <algorithm>

#include "cpu/isa/isa.h"
#include "cpu/kernels/attend.h"

namespace fastcam {

const AttendKernels& attend_kernels() { return FASTCAM_CHOOSE(kAttendKernels); }

int64_t attend_block_channels(int64_t cells) { return std::max<int64_t>(1, 2048 / cells); }

int64_t attend_scratch_bytes(int64_t cells) {
  return std::max<int64_t>(4 * kAttendRows, attend_block_channels(cells)) * padded_row_bytes(cells);
}

}  // namespace fastcam
