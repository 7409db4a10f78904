// exp, log1p and powers on the vectors of vec.h. float has its own series (a few ulp, no tables);
// double, which serves gradient checks, goes lane by lane through libm.
#pragma once

#include <cmath>
#include <limits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "cpu/simd/vec.h"

namespace fastcam::FASTCAM_ISA {

// -|x|, its NaN kept.
template <class Acc>
FASTCAM_INLINE Vec<Acc> minus_absolute(const Vec<Acc>& x) {
  return (Vec<Acc>)((LaneInts<Acc>)x | std::numeric_limits<IntOf<Acc>>::min());
}

// exp(x) for x <= 88; below -87.3 it stays at the smallest normal number.
FASTCAM_INLINE Vec<double> exp_(const Vec<double>& x) {
  Vec<double> y;
  for (int i = 0; i < kLanes<double>; ++i) y[i] = ::exp(x[i]);
  return y;
}
FASTCAM_INLINE Vec<float> exp_(const Vec<float>& x) {
  const Vec<float> low = splat(-87.3f);
  const Vec<float> z = (x < low) ? low : x;  // keeps NaN
  // z = k ln2 + r, |r| <= ln2 / 2. Adding 1.5 * 2^23 rounds to the nearest integer; the 127 on top
  // leaves k with its bias in the low bits, so that one shift makes 2^k of them.
  constexpr float kShift = 12582912.0f + 127.0f;
  const Vec<float> shifted = z * 1.44269504f + kShift;
  const Vec<float> k = shifted - kShift;
  const Vec<float> scale = (Vec<float>)((IntVec)shifted << 23);
  const Vec<float> r = (z - k * 0.693145752f) - k * 1.42860677e-6f;
  // 1 + r + r^2 Q(r), Q the minimax polynomial of degree 4: within 3.1e-9 before rounding.
  const Vec<float> r2 = r * r;
  const Vec<float> q01 = r * 0.16666521f + 0.49999994f;
  const Vec<float> q23 = r * 8.368745e-3f + 4.166839e-2f;
  const Vec<float> q = (r2 * 1.3814539e-3f + q23) * r2 + q01;
  return (r2 * q + r) * scale + scale;
}

// The root of 0 < x: the processor's estimate and a step of Newton's method, within 2 ulp, where
// there is one; dividing and rooting share a unit that is busy for many cycles.
FASTCAM_INLINE Vec<double> root_(const Vec<double>& x) {
  Vec<double> y = x;
  for (int i = 0; i < kLanes<double>; ++i) y[i] = ::sqrt(y[i]);
  return y;
}
FASTCAM_INLINE Vec<float> root_(const Vec<float>& x) {
#if defined(__x86_64__) && FASTCAM_VECTOR_BYTES >= 32
#if FASTCAM_VECTOR_BYTES == 64
  const Vec<float> r = (Vec<float>)_mm512_maskz_rsqrt14_ps(0xffff, (__m512)x);
#else
  const Vec<float> r = (Vec<float>)_mm256_rsqrt_ps((__m256)x);
#endif
  const Vec<float> y = x * r;
  return y * (1.5f - 0.5f * y * r);
#else
  Vec<float> y = x;
  for (int i = 0; i < kLanes<float>; ++i) y[i] = ::sqrtf(y[i]);
  return y;
#endif
}

// log(1 + e) for e in [0, 1], to an absolute error of 5e-9 before rounding.
FASTCAM_INLINE Vec<double> log1p_unit(const Vec<double>& e) {
  Vec<double> y;
  for (int i = 0; i < kLanes<double>; ++i) y[i] = ::log1p(e[i]);
  return y;
}
FASTCAM_INLINE Vec<float> log1p_unit(const Vec<float>& e) {
  // e P(e), P the minimax polynomial of degree 8: no division.
  Vec<float> p = splat(3.930457e-3f);
  p = p * e - 2.3855453e-2f;
  p = p * e + 6.808469e-2f;
  p = p * e - 0.12690887f;
  p = p * e + 0.18569818f;
  p = p * e - 0.24672687f;
  p = p * e + 0.33289668f;
  p = p * e - 0.49997094f;
  p = p * e + 0.99999934f;
  return p * e;
}

// x^n of x in [0, 1], n > -1: within 2 ulp and |log(x^n)| more.
FASTCAM_INLINE Vec<double> pow_unit(const Vec<double>& x, double n) {
  Vec<double> y;
  for (int i = 0; i < kLanes<double>; ++i) y[i] = ::pow(x[i], n);
  return y;
}
FASTCAM_INLINE Vec<float> pow_unit(const Vec<float>& x, float n) {
  // log x = k ln2 + log(1 + f), f in [-0.3, 0.42]; the polynomial of Cephes' logf.
  const auto subnormal = x < std::numeric_limits<float>::min();
  const IntVec bits = (IntVec)(subnormal ? x * 16777216.0f : x);
  const IntVec exponent = (bits - 0x3f3504f3) >> 23;
  const Vec<float> f = (Vec<float>)(bits - (exponent << 23)) - 1.0f;
  const Vec<float> k =
      __builtin_convertvector(exponent, Vec<float>) - (subnormal ? splat(24.0f) : Vec<float>{});
  Vec<float> p = splat(7.0376836292e-2f);
  p = p * f - 1.1514610310e-1f;
  p = p * f + 1.1676998740e-1f;
  p = p * f - 1.2420140846e-1f;
  p = p * f + 1.4249322787e-1f;
  p = p * f - 1.6668057665e-1f;
  p = p * f + 2.0000714765e-1f;
  p = p * f - 2.4999993993e-1f;
  p = p * f + 3.3333331174e-1f;
  const Vec<float> f2 = f * f;
  const Vec<float> log = (p * f * f2 - 2.12194440e-4f * k - 0.5f * f2 + f) + 0.693359375f * k;
  const Vec<float> y = exp_(Vec<float>(n * log));
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const Vec<float> large = (n * log > 88.7f) ? splat(kInfinity) : y;
  // 0, and what is not in [0, 1].
  const Vec<float> rest = (x == 0.0f) ? splat(n > 0 ? 0.0f : kInfinity) : splat(NAN);
  return (x > 0.0f) ? large : rest;
}

// Vectors that go through the same steps side by side.
template <int kCount, class Acc>
struct Block {
  Vec<Acc> v[kCount];
  static FASTCAM_INLINE Block ones() {
    Block b;
    for (Vec<Acc>& x : b.v) x = splat(Acc(1));
    return b;
  }
  static FASTCAM_INLINE Block read(const Acc* from) {
    Block b;
    for (int i = 0; i < kCount; ++i) b.v[i] = load(from + i * kLanes<Acc>);
    return b;
  }
  friend FASTCAM_INLINE Block operator*(const Block& x, const Block& y) {
    Block b;
    for (int i = 0; i < kCount; ++i) b.v[i] = x.v[i] * y.v[i];
    return b;
  }
};

// x^k, k whole. A small k known at compile time leaves two or three multiplications.
template <int kExponent>
struct WholePower {
  template <class X>
  FASTCAM_INLINE X operator()(const X& x) const {
    if constexpr (kExponent == 1) {
      return x;
    } else if constexpr (kExponent % 2 == 0) {
      const X half = WholePower<kExponent / 2>{}(x);
      return half * half;
    } else {
      return x * WholePower<kExponent - 1>{}(x);
    }
  }
};
struct AnyWholePower {
  int exponent;
  template <class X>
  FASTCAM_INLINE X operator()(const X& x) const {
    X square = x;
    X result = (exponent & 1) ? x : X::ones();
    for (int bits = exponent >> 1; bits != 0; bits >>= 1) {
      square = square * square;
      if (bits & 1) result = result * square;
    }
    return result;
  }
};

}  // namespace fastcam::FASTCAM_ISA
