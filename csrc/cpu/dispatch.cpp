// Chooses the CPU kernels for the processor at hand, once.
#include <cstdlib>
#include <string_view>

#include "cam_kernels.h"

namespace fastcam {

namespace {

const CamKernels& choose() {
#if defined(__x86_64__)
  const char* asked = std::getenv("FASTCAM_CPU_ISA");
  const std::string_view limit = asked == nullptr ? "" : asked;
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  if (avx512 && limit != "avx2" && limit != "baseline") return avx512::kCamKernels;
  if (avx2 && limit != "baseline") return avx2::kCamKernels;
#endif
  return baseline::kCamKernels;
}

}  // namespace

const CamKernels& cam_kernels() {
  static const CamKernels& chosen = choose();
  return chosen;
}

// Sized for the widest vectors and the widest arithmetic type.
static int64_t padded_row_bytes(int64_t cells) { return (cells + 15) / 16 * 16 * 8; }

int64_t cam_forward_scratch_bytes(const CamInputs& in) {
  return kTargetBlock * padded_row_bytes(in.cells);
}

int64_t cam_backward_scratch_bytes(const CamBackward& op) {
  return op.targets * (padded_row_bytes(op.cells) + 1);
}

}  // namespace fastcam
