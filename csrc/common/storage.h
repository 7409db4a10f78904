// Storage types of tensors. The 16-bit ones are bits only: all arithmetic on them is done in float.
#pragma once

#include <cstdint>
#include <type_traits>

namespace fastcam {

enum class ScalarKind : int32_t { kFloat, kDouble, kHalf, kBFloat16 };
inline constexpr int kScalarKinds = 4;

inline constexpr int64_t bytes_of(ScalarKind kind) {
  return kind == ScalarKind::kDouble ? 8 : kind == ScalarKind::kFloat ? 4 : 2;
}

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// The arithmetic type of a storage type.
template <class S>
using AccOf = std::conditional_t<std::is_same_v<S, double>, double, float>;

// f(double{}) or f(float{}): the arithmetic type of a run-time storage type.
template <class F>
inline __attribute__((always_inline)) void with_acc(ScalarKind kind, const F& f) {
  if (kind == ScalarKind::kDouble) {
    f(double{});
  } else {
    f(float{});
  }
}

// f(std::true_type{}) or f(std::false_type{}): a run-time choice as a compile-time one.
template <class F>
inline __attribute__((always_inline)) void with_flag(bool flag, const F& f) {
  if (flag) {
    f(std::true_type{});
  } else {
    f(std::false_type{});
  }
}

// Run-time storage type to compile-time one: f(float{}), f(Half{}), ... Always inlined, because the
// CPU kernels are compiled once per instruction set.
template <class F>
inline __attribute__((always_inline)) void with_storage(ScalarKind kind, const F& f) {
  switch (kind) {
    case ScalarKind::kFloat: f(float{}); break;
    case ScalarKind::kDouble: f(double{}); break;
    case ScalarKind::kHalf: f(Half{}); break;
    case ScalarKind::kBFloat16: f(BFloat16{}); break;
  }
}

}  // namespace fastcam
