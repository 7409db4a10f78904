// Every access of a kernel to shared memory, for races.h: -fsanitize=thread puts these calls into
// the code, and its run-time library is not linked.
#include "races.h"

namespace {

void see(const void* p, size_t bytes, bool write, const void* site) {
  if (emulator::races != nullptr) emulator::races->shared(p, bytes, write, site);
}

}  // namespace

#define FASTCAM_ACCESS(name, bytes, write) \
  void __tsan_##name(const void* p) { see(p, bytes, write, __builtin_return_address(0)); }
#define FASTCAM_ACCESSES(bytes)                       \
  FASTCAM_ACCESS(read##bytes, bytes, false)           \
  FASTCAM_ACCESS(write##bytes, bytes, true)           \
  FASTCAM_ACCESS(unaligned_read##bytes, bytes, false) \
  FASTCAM_ACCESS(unaligned_write##bytes, bytes, true)

extern "C" {
FASTCAM_ACCESSES(1)
FASTCAM_ACCESSES(2)
FASTCAM_ACCESSES(4)
FASTCAM_ACCESSES(8)
FASTCAM_ACCESSES(16)
void __tsan_read_range(const void* p, size_t bytes) {
  see(p, bytes, false, __builtin_return_address(0));
}
void __tsan_write_range(const void* p, size_t bytes) {
  see(p, bytes, true, __builtin_return_address(0));
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
// Not of shared memory: of static variables and shared pointers.
char __tsan_atomic8_load(const volatile char* p, int) {
  return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}
unsigned __tsan_atomic32_fetch_add(volatile unsigned* p, unsigned value, int) {
  return __atomic_fetch_add(p, value, __ATOMIC_SEQ_CST);
}
}
