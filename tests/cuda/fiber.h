// A stack to run a function on, and a switch to it and back. x86-64 by hand (a switch takes
// nanoseconds; swapcontext asks the kernel each time), ucontext elsewhere and under
// AddressSanitizer's eyes, which has to be told of every switch.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <new>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulator {

#if defined(__x86_64__)
// Saves the callee-saved registers on the current stack, its pointer in *from, and goes on at `to`.
extern "C" void fastcam_switch_stack(void** from, void* to);
asm(R"(
.text
.globl fastcam_switch_stack
.type fastcam_switch_stack, @function
fastcam_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size fastcam_switch_stack, .-fastcam_switch_stack
)");
#endif

class Fiber {
public:
  static constexpr size_t kStackBytes = 256 * 1024;

  Fiber() {
    stack_ = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stack_ == MAP_FAILED) throw std::bad_alloc();
  }
  ~Fiber() { munmap(stack_, kStackBytes); }
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Prepares to run entry(argument), which must never return: it ends by a last leave().
  void prepare(void (*entry)(void*), void* argument) {
    entry_ = entry;
    argument_ = argument;
#if defined(__x86_64__)
    char* top = static_cast<char*>(stack_) + kStackBytes - 64;
    void** frame = reinterpret_cast<void**>(top);
    *--frame = nullptr;  // the return address of start(), which is aligned as after a call
    *--frame = reinterpret_cast<void*>(&start);
    *--frame = this;  // rbp, read by start() through `starting`
    for (int i = 0; i < 5; ++i) *--frame = nullptr;
    here_ = frame;
#else
    getcontext(&here_);
    here_.uc_stack.ss_sp = stack_;
    here_.uc_stack.ss_size = kStackBytes;
    here_.uc_link = nullptr;
    makecontext(&here_, &start, 0);
#endif
  }

  // From the scheduler into the fiber, until it leaves.
  void enter() {
    starting() = this;
#if defined(__SANITIZE_ADDRESS__)
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, stack_, kStackBytes);
#endif
#if defined(__x86_64__)
    fastcam_switch_stack(&caller_, here_);
#else
    swapcontext(&caller_, &here_);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
  }

  // From the fiber back to the scheduler.
  void leave(bool for_good = false) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(for_good ? nullptr : &fake_, caller_stack_, caller_stack_bytes_);
#endif
    (void)for_good;
#if defined(__x86_64__)
    fastcam_switch_stack(&here_, caller_);
#else
    swapcontext(&here_, &caller_);
#endif
    arrived();
  }

private:
  static Fiber*& starting() {
    static thread_local Fiber* fiber = nullptr;
    return fiber;
  }
  void arrived() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_, &caller_stack_, &caller_stack_bytes_);
#endif
  }
  static void start() {
    Fiber* fiber = starting();
    fiber->arrived();
    fiber->entry_(fiber->argument_);
  }

  void* stack_ = nullptr;
  void (*entry_)(void*) = nullptr;
  void* argument_ = nullptr;
#if defined(__SANITIZE_ADDRESS__)
  void* fake_ = nullptr;
  const void* caller_stack_ = nullptr;
  size_t caller_stack_bytes_ = 0;
#endif
#if defined(__x86_64__)
  void* here_ = nullptr;
  void* caller_ = nullptr;
#else
  ucontext_t here_{};
  ucontext_t caller_{};
#endif
};

}  // namespace emulator
