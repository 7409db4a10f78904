// Chooses the CPU kernels for the processor at hand, once.
#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "attend_kernels.h"
#include "cam_kernels.h"

namespace fastcam {

namespace {

#if defined(__x86_64__)
enum class Isa { kBaseline, kAvx2, kAvx512 };

Isa best_isa() {
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

}  // namespace

const CamKernels& cam_kernels() { return FASTCAM_CHOOSE(kCamKernels); }
const AttendKernels& attend_kernels() { return FASTCAM_CHOOSE(kAttendKernels); }

// Sized for the widest vectors and the widest arithmetic type.
static int64_t padded_row_bytes(int64_t cells) { return (cells + 15) / 16 * 16 * 8; }

int64_t cam_forward_scratch_bytes(const CamInputs& in) {
  return kTargetBlock * padded_row_bytes(in.cells);
}

int64_t cam_backward_scratch_bytes(const CamBackward& op) {
  return op.targets * (padded_row_bytes(op.cells) + 1);
}

int64_t attend_block_channels(int64_t cells) { return std::max<int64_t>(1, 2048 / cells); }

int64_t attend_scratch_bytes(int64_t cells) {
  return std::max<int64_t>(4 * kAttendRows, attend_block_channels(cells)) * padded_row_bytes(cells);
}

}  // namespace fastcam
