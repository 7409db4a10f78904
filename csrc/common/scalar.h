// Scalar functions shared by the CPU kernels, the CUDA kernels and the C++ tests.
#pragma once

#include <cmath>

#if defined(__CUDACC__)
#define FASTCAM_HD __host__ __device__ __forceinline__
#else
// Forced, because the CPU kernels are compiled once per instruction set: a shared out-of-line copy
// would be the one of whichever instruction set the linker met first.
#define FASTCAM_HD inline __attribute__((always_inline))
#endif

namespace fastcam {

// a / b rounded up, and the next multiple of b, for whole a >= 0 and b > 0.
template <class A, class B>
FASTCAM_HD constexpr auto ceil_div(A a, B b) {
  return (a + b - 1) / b;
}
template <class A, class B>
FASTCAM_HD constexpr auto round_up(A a, B b) {
  return ceil_div(a, b) * b;
}

// A `V` below is a number, or a vector of the compiler's own kind (cpu/simd/vec.h), of which a
// comparison is a mask.
template <class V>
FASTCAM_HD auto is_nan(const V& x) {
  return x != x;
}

// As torch.relu does: NaN stays.
template <class V>
FASTCAM_HD V relu(const V& x) {
  return x <= V{} ? V{} : x;
}

FASTCAM_HD float abs_(float x) { return ::fabsf(x); }
FASTCAM_HD double abs_(double x) { return ::fabs(x); }
FASTCAM_HD float exp_(float x) { return ::expf(x); }
FASTCAM_HD double exp_(double x) { return ::exp(x); }
FASTCAM_HD float log_(float x) { return ::logf(x); }
FASTCAM_HD double log_(double x) { return ::log(x); }
FASTCAM_HD float pow_(float x, float y) { return ::powf(x, y); }
FASTCAM_HD double pow_(double x, double y) { return ::pow(x, y); }

// The same of vectors, lane by lane but for the first.
template <class V>
FASTCAM_HD V abs_(const V& x) {
  return x < V{} ? -x : x;
}
template <class V, class F>
FASTCAM_HD V each_lane(V x, const F& f) {
  for (int i = 0; i < int(sizeof(V) / sizeof(x[0])); ++i) x[i] = f(x[i]);
  return x;
}
template <class V>
FASTCAM_HD V exp_(const V& x) {
  return each_lane(x, [](auto lane) { return exp_(lane); });
}
template <class V>
FASTCAM_HD V log_(const V& x) {
  return each_lane(x, [](auto lane) { return log_(lane); });
}
template <class V, class T>
FASTCAM_HD V pow_(const V& x, T y) {
  return each_lane(x, [y](auto lane) { return pow_(lane, y); });
}

// An exponent for which powers are made by squaring: y if it is a whole number in [0, 1023], else
// -1.
template <class T>
FASTCAM_HD int whole_exponent(T y) {
  return y >= T(0) && y < T(1024) && T(int(y)) == y ? int(y) : -1;
}

// x^y for x >= 0; whole exponents by squaring, which is exact to a few ulp and free of libm.
template <class T>
struct Power {
  T exponent;
  int whole;

  FASTCAM_HD explicit Power(T y) : exponent(y), whole(whole_exponent(y)) {}
  template <class V>
  FASTCAM_HD V operator()(const V& x) const {
    if (whole < 0) return pow_(x, exponent);
    V result = V{} + T(1);
    V square = x;
    for (int bits = whole; bits != 0; bits >>= 1) {
      if (bits & 1) result *= square;
      square *= square;
    }
    return result;
  }
};

}  // namespace fastcam
