// The tone curve of an attention mask, Kimura & Tanaka, eq. 7 and 8, one source for host and
// device. (cpu/kernels/attend_curves.h has the same formulas on vectors.)
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

// A mask that is given by its logit L: u = 2 sigmoid(-|L|) is exact at any L, where the sigmoid of
// a large L rounds to 1.
template <class T>
struct MaskLogit {
  T logit;
  T u;

  FASTCAM_HD MaskLogit() {}
  FASTCAM_HD explicit MaskLogit(T logit_) : logit(logit_) {
    const T e = exp_(-abs_(logit));
    u = T(2) * e / (T(1) + e);
  }
  FASTCAM_HD T mirrored(T lower) const { return logit >= T(0) ? T(1) - lower : lower; }
  FASTCAM_HD T mask() const { return mirrored(T(0.5) * u); }
  // A small u is subnormal or 0 long before its logarithm is out of range.
  FASTCAM_HD T log_u() const { return T(0.69314718055994531) - abs_(logit) + log1p_(T(-0.5) * u); }
};

// 1 + g(sigmoid(L)) and its derivative: h = u^n / 2 for L < 0, mirrored above, with d h / d L =
// n (u^n / 2) sigmoid(|L|).
template <class T>
struct Attention {
  T n, gain, offset;  // 1 + g = gain h + offset
  Power<T> power;

  FASTCAM_HD explicit Attention(const ToneCurve& curve)
      : n(T(curve.n)), gain(T(1) + T(curve.beta)), offset(T(1) - T(curve.beta)), power(n) {}
  // u^n / 2 of some masks, whose chains of products run side by side.
  template <int kCount>
  FASTCAM_HD void lower(const MaskLogit<T> (&m)[kCount], T (&out)[kCount]) const {
    if (power.whole < 0) {
      for (int i = 0; i < kCount; ++i) out[i] = T(0.5) * exp_(n * m[i].log_u());
      return;
    }
    T square[kCount];
    for (int i = 0; i < kCount; ++i) {
      square[i] = m[i].u;
      out[i] = T(0.5);
    }
    for (int bits = power.whole; bits != 0; bits >>= 1) {
      for (int i = 0; i < kCount; ++i) {
        if (bits & 1) out[i] *= square[i];
        square[i] *= square[i];
      }
    }
  }
  FASTCAM_HD T factor(const MaskLogit<T>& m, T lower) const {
    return offset + gain * m.mirrored(lower);
  }
  // d loss / d L, from d loss / d factor and d loss / d mask.
  FASTCAM_HD T logit_gradient(const MaskLogit<T>& m, T lower, T of_factor, T of_mask) const {
    const T q = T(0.5) * m.u;
    return (of_factor * (gain * n) * lower + of_mask * q) * (T(1) - q);
  }
};

}  // namespace fastcam
