// The tone curve of one value of an attention mask, Kimura & Tanaka, eq. 7 and 8: for CUDA and the
// tests. (On vectors of the CPU: cpu/kernels/tone_curve.h; of a logit: cpu/kernels/attend_curves.h,
// cuda/attend/curve.cuh.)
#pragma once

#include "common/params.h"
#include "common/scalar.h"

namespace fastcam {

// g of a mask in [0, 1], and d g / d mask.
template <class T>
struct MaskTone {
  T gain, offset;  // g = gain h - offset
  Power<T> power;

  FASTCAM_HD explicit MaskTone(const ToneCurve& curve)
      : gain(T(1) + T(curve.beta)), offset(T(curve.beta)), power(T(curve.n)) {}
  FASTCAM_HD T operator()(T mask) const {
    const bool low = mask < T(0.5);
    const T part = T(0.5) * power(T(2) * (low ? mask : T(1) - mask));
    return gain * (low ? part : T(1) - part) - offset;
  }
};
template <class T>
struct MaskToneSlope {
  T n, gain;
  Power<T> power;  // of n - 1

  FASTCAM_HD explicit MaskToneSlope(const ToneCurve& curve)
      : n(T(curve.n)), gain(n * (T(1) + T(curve.beta))), power(n - T(1)) {}
  FASTCAM_HD T operator()(T mask) const {
    if (n == T(0)) return mask - mask;  // flat; 0 * x^-1 would be NaN at x = 0
    return gain * power(T(2) * (mask < T(0.5) ? mask : T(1) - mask));
  }
};

}  // namespace fastcam
