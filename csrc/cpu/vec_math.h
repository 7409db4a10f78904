// exp, log1p and powers on the vectors of vec.h. float has its own series (a few ulp, no tables);
// double, which serves gradient checks, goes lane by lane through libm.
#pragma once

#include <cmath>

#include "vec.h"

namespace fastcam::FASTCAM_ISA {

template <class Acc>
FASTCAM_INLINE Vec<Acc> absolute(const Vec<Acc>& x) {
  return (x < Acc(0)) ? -x : x;
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
  // z = k ln2 + r, |r| <= ln2 / 2; adding 1.5 * 2^23 rounds to the nearest integer.
  const Vec<float> shifted = z * 1.44269504f + 12582912.0f;
  const Vec<float> k = shifted - 12582912.0f;
  const Vec<float> r = (z - k * 0.693145752f) - k * 1.42860677e-6f;
  // Taylor to r^7: the rest is below 6e-9 of the result.
  Vec<float> p = splat(1.0f / 5040);
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const IntVec exponent = ((IntVec)shifted - 0x4b400000) << 23;
  const Vec<float> result = (Vec<float>)((IntVec)p + exponent);
  return (x == x) ? result : x;
}

// log(1 + e) for e in [0, 1].
FASTCAM_INLINE Vec<double> log1p_unit(const Vec<double>& e) {
  Vec<double> y;
  for (int i = 0; i < kLanes<double>; ++i) y[i] = ::log1p(e[i]);
  return y;
}
FASTCAM_INLINE Vec<float> log1p_unit(const Vec<float>& e) {
  // 2 artanh(s), s = e / (2 + e) <= 1/3, by its series to s^15.
  const Vec<float> s = e / (e + 2.0f);
  const Vec<float> s2 = s * s;
  Vec<float> p = splat(1.0f / 15);
  p = p * s2 + 1.0f / 13;
  p = p * s2 + 1.0f / 11;
  p = p * s2 + 1.0f / 9;
  p = p * s2 + 1.0f / 7;
  p = p * s2 + 1.0f / 5;
  p = p * s2 + 1.0f / 3;
  p = p * s2 + 1.0f;
  return 2.0f * s * p;
}

// x^k, k whole. A small k known at compile time leaves two or three multiplications.
template <int kExponent>
struct WholePower {
  template <class Acc>
  FASTCAM_INLINE Vec<Acc> raise(const Vec<Acc>& x) const {
    if constexpr (kExponent == 0) {
      return splat(Acc(1));
    } else if constexpr (kExponent % 2 == 0) {
      const Vec<Acc> half = WholePower<kExponent / 2>{}.template raise<Acc>(x);
      return half * half;
    } else {
      return x * WholePower<kExponent - 1>{}.template raise<Acc>(x);
    }
  }
};
struct AnyWholePower {
  int exponent;
  template <class Acc>
  FASTCAM_INLINE Vec<Acc> raise(const Vec<Acc>& x) const {
    Vec<Acc> result = splat(Acc(1));
    Vec<Acc> square = x;
    for (int bits = exponent; bits != 0; bits >>= 1) {
      if (bits & 1) result = result * square;
      square = square * square;
    }
    return result;
  }
};

}  // namespace fastcam::FASTCAM_ISA
