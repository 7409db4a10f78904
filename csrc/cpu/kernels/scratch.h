// The blocks that the CPU kernels work in, and the scratch memory of a thread, in bytes, for them.
// Nothing inline in here: it would be compiled for a newer processor, too.
#pragma once

#include "common/params.h"

namespace fastcam {

// Targets that share one read of the activations.
inline constexpr int kTargetBlock = 4;

// A row of cells for each target, and a byte.
int64_t cam_scratch_bytes(int64_t targets, int64_t cells);

// Rows that attend's forward pools at once under several curves.
inline constexpr int kAttendRows = 4;

// Channels that attend's backward takes at once: their features, the gradient with respect to them
// and what is streamed fit into a first-level cache of 32 KB.
int64_t attend_block_channels(int64_t cells);

int64_t attend_scratch_bytes(int64_t cells);

}  // namespace fastcam
