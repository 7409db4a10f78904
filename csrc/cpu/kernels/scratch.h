// Sizes of the scratch memory of the CPU kernels.
#pragma once

#include <cstdint>

namespace fastcam {

// Bytes of a row of scratch, for the widest vectors and the widest arithmetic type.
inline int64_t padded_row_bytes(int64_t cells) { return (cells + 15) / 16 * 16 * 8; }

}  // namespace fastcam
