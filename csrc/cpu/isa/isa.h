// Which instruction set the processor at hand runs, and the table of kernels for it.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "common/scalar.h"

namespace fastcam {

#if defined(__x86_64__)
enum class Isa { kBaseline, kAvx2, kAvx512 };

inline Isa best_isa() {
  const char* asked = std::getenv("FASTCAM_CPU_ISA");
  const std::string_view limit = asked == nullptr ? "" : asked;
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  if (avx512 && limit != "avx2" && limit != "baseline") return Isa::kAvx512;
  if (avx2 && limit != "baseline") return Isa::kAvx2;
  return Isa::kBaseline;
}

template <class Table>
const Table& choose(const Table& plain, const Table& with_avx2, const Table& with_avx512) {
  static const Isa isa = best_isa();
  return isa == Isa::kAvx512 ? with_avx512 : isa == Isa::kAvx2 ? with_avx2 : plain;
}
#define FASTCAM_CHOOSE(table) choose(baseline::table, avx2::table, avx512::table)
#else
#define FASTCAM_CHOOSE(table) baseline::table
#endif

// Bytes of a row of scratch, for the widest vectors and the widest arithmetic type.
inline int64_t padded_row_bytes(int64_t cells) { return round_up(cells, 16) * 8; }

}  // namespace fastcam
