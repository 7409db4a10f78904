// tone_curve and its backward on the CPU, for the instruction set FASTCAM_ISA.
#pragma once

#include "common/scalar.h"
#include "cpu/kernels/attend_rows.h"
#include "cpu/simd/vec_math.h"

namespace fastcam::FASTCAM_ISA {

// x^n of 0 <= x <= 1 for any n > -1.
template <class Acc>
struct AnyPower {
  Acc n;
  FASTCAM_INLINE Vec<Acc> operator()(const Vec<Acc>& x) const {
    if (n >= 0 && n < 1024 && n == Acc(int(n))) {
      return AnyWholePower{int(n)}(Block<1, Acc>{{x}}).v[0];
    }
    return pow_unit(x, n);
  }
};

template <class Acc, class S>
void tone_curve(const ToneCurveOp& op, int64_t begin, int64_t end) {
  const S* mask = static_cast<const S*>(op.mask) + begin;
  S* out = static_cast<S*>(op.out) + begin;
  const AnyPower<Acc> power{Acc(op.curve.n)};
  const Acc beta = Acc(op.curve.beta);
  Row<Acc>(end - begin).each([&](int64_t i, int64_t, const auto& how) FASTCAM_INLINE_LAMBDA {
    const Vec<Acc> m = how.template read<Acc>(mask + i);
    const auto low = m < Acc(0.5);
    const Vec<Acc> part = Acc(0.5) * power(Acc(2) * (low ? m : Acc(1) - m));
    how.template write<Acc>(out + i,
                            Vec<Acc>((Acc(1) + beta) * (low ? part : Acc(1) - part) - beta));
  });
}

template <class Acc, class S>
void tone_curve_backward(const ToneCurveOp& op, int64_t begin, int64_t end) {
  const S* mask = static_cast<const S*>(op.mask) + begin;
  const S* grad = static_cast<const S*>(op.grad) + begin;
  S* out = static_cast<S*>(op.out) + begin;
  const Acc n = Acc(op.curve.n);
  const AnyPower<Acc> power{n - Acc(1)};
  const Acc gain = n * (Acc(1) + Acc(op.curve.beta));
  Row<Acc>(end - begin).each([&](int64_t i, int64_t, const auto& how) FASTCAM_INLINE_LAMBDA {
    const Vec<Acc> m = how.template read<Acc>(mask + i);
    const Vec<Acc> x = Acc(2) * ((m < Acc(0.5)) ? m : Acc(1) - m);
    // n = 0 is flat; 0 * x^-1 would be NaN at x = 0.
    const Vec<Acc> slope = n == Acc(0) ? Vec<Acc>(m - m) : Vec<Acc>(gain * power(x));
    how.template write<Acc>(out + i, Vec<Acc>(how.template read<Acc>(grad + i) * slope));
  });
}

}  // namespace fastcam::FASTCAM_ISA
