// The curve of attend on a logit L: h = u^n / 2 for L < 0, mirrored above, with u = 2
// sigmoid(-|L|), which is exact at any L, where the sigmoid of a large L rounds to 1. In float the
// exponentials, logarithms and reciprocals are the device's approximations (within 2 ulp).
#pragma once

#include "common/params.h"
#include "cuda/device.cuh"

namespace fastcam {

template <class Acc>
inline constexpr Acc kLog2E = Acc(1.4426950408889634);

// u, and log2 u: u is 0 long before its logarithm is out of range.
template <class Acc>
FASTCAM_DEVICE Acc twice_lower_mask(Acc logit) {
  const Acc e = exp2_near(-kLog2E<Acc> * abs_(logit));
  return e * reciprocal_near(Acc(0.5) * e + Acc(0.5));
}
template <class S, int kCount>
FASTCAM_DEVICE void log2_lower_masks(const S (&logit)[kCount], const AccOf<S> (&u)[kCount],
                                     AccOf<S> (&log2_u)[kCount]) {
  using Acc = AccOf<S>;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    log2_u[i] =
        log2_near(Acc(1) - Acc(0.5) * u[i]) + (Acc(1) - kLog2E<Acc> * abs_(to_acc(logit[i])));
  }
}

// A curve as the kernels take it.
template <class Acc>
struct AttendCurve {
  Acc n;
  int whole;         // whole_exponent(n)
  int bit;           // the highest of `whole`
  Acc half, middle;  // 1 + g = middle +- half (1 - u^n), + for L >= 0

  AttendCurve() = default;
  explicit AttendCurve(const ToneCurve& curve)
      : n(Acc(curve.n)), whole(whole_exponent(n)), bit(1), half(Acc(0.5 * (1 + curve.beta))),
        middle(2 - half) {
    while (2 * bit <= whole) bit *= 2;
  }

  // t = u^n of several u: by squaring if n is whole, else from log2 u.
  template <int kCount>
  FASTCAM_DEVICE void raise(const Acc (&u)[kCount], const Acc (&log2_u)[kCount],
                            Acc (&t)[kCount]) const {
    if (whole < 0) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) t[i] = exp2_near(n * log2_u[i]);
      return;
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) t[i] = whole == 0 ? Acc(1) : u[i];
#pragma unroll 1
    for (int b = bit >> 1; b > 0; b >>= 1) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) t[i] *= t[i];
      if ((whole & b) == 0) continue;
#pragma unroll
      for (int i = 0; i < kCount; ++i) t[i] *= u[i];
    }
  }
  template <class S, int kCount>
  FASTCAM_DEVICE void raise_logits(const S (&logit)[kCount], const Acc (&u)[kCount],
                                   Acc (&t)[kCount]) const {
    Acc log2_u[kCount];
    if (whole < 0) log2_lower_masks(logit, u, log2_u);
    raise(u, log2_u, t);
  }
  FASTCAM_DEVICE Acc factor(Acc logit, Acc t) const {
    return middle + copy_sign(half - half * t, logit);
  }
};

}  // namespace fastcam
