// The tone curve of an attention mask, Kimura & Tanaka, eq. 7 and 8: of one value for CUDA and the
// tests, of a vector for the CPU. (Of a logit: cpu/kernels/attend_curves.h, cuda/attend/curve.cuh.)
#pragma once

#include "common/params.h"
#include "common/scalar.h"

namespace fastcam {

// g of a mask, and d g / d mask. A mask is a T, or a vector of them with a power of its own. Beyond
// [0, 1], where the curve is not defined, it counts as 0 or 1 and has no slope; NaN stays.
template <class T, class ThePower = Power<T>>
struct MaskTone {
  T gain, offset;  // g = gain h - offset
  ThePower power;

  FASTCAM_HD explicit MaskTone(const ToneCurve& curve)
      : gain(T(1) + T(curve.beta)), offset(T(curve.beta)), power{T(curve.n)} {}
  template <class Mask>
  FASTCAM_HD Mask operator()(const Mask& mask) const {
    const auto low = mask < T(0.5);
    const Mask nearer = low ? mask : T(1) - mask;
    const Mask part = T(0.5) * power(T(2) * (nearer < T(0) ? Mask{} : nearer));
    return gain * (low ? part : T(1) - part) - offset;
  }
};
template <class T, class ThePower = Power<T>>
struct MaskToneSlope {
  T n, gain;
  ThePower power;  // of n - 1

  FASTCAM_HD explicit MaskToneSlope(const ToneCurve& curve)
      : n(T(curve.n)), gain(n * (T(1) + T(curve.beta))), power{n - T(1)} {}
  template <class Mask>
  FASTCAM_HD Mask operator()(const Mask& mask) const {
    const Mask nearer = mask < T(0.5) ? mask : T(1) - mask;
    // n = 0 is flat; 0 * x^-1 would be NaN at x = 0
    const Mask slope = n == T(0) ? mask - mask : gain * power(T(2) * nearer);
    return nearer < T(0) ? Mask{} : slope;
  }
};

}  // namespace fastcam
