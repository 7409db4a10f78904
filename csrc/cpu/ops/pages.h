// Large outputs in huge pages: a fresh 44 MB allocation costs four times as much in page faults as
// in writing it.
#pragma once

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fastcam {

// Only a hint, which the system may refuse.
// Null is fine.
inline void prefer_huge_pages([[maybe_unused]] void* memory, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (memory == nullptr) return;
  constexpr uintptr_t kHugePage = uintptr_t(1) << 21;
  const uintptr_t begin = (uintptr_t(memory) + kHugePage - 1) & ~(kHugePage - 1);
  const uintptr_t end = (uintptr_t(memory) + uintptr_t(bytes)) & ~(kHugePage - 1);
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace fastcam
