// 16-bit storage types of the CPU kernels: bits only, all arithmetic is done in float (vec.h).
#pragma once

#include <cstdint>
#include <type_traits>

#include "../fastcam.h"

namespace fastcam {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// The arithmetic type of a storage type.
template <class S>
using AccOf = std::conditional_t<std::is_same_v<S, double>, double, float>;

// Bytes of a row of scratch, for the widest vectors and the widest arithmetic type.
inline int64_t padded_row_bytes(int64_t cells) { return (cells + 15) / 16 * 16 * 8; }

}  // namespace fastcam
