// tone_curve and its backward on the CPU, for the instruction set FASTCAM_ISA.
#pragma once

#include "common/tone_curve.h"
#include "cpu/kernels/attend_rows.h"
#include "cpu/simd/vec_math.h"

namespace fastcam::FASTCAM_ISA {

// x^n of 0 <= x <= 1 for any n > -1.
template <class Acc>
struct AnyPower {
  Acc n;
  FASTCAM_INLINE Vec<Acc> operator()(const Vec<Acc>& x) const {
    const int whole = whole_exponent(n);
    return whole < 0 ? pow_unit(x, n) : AnyWholePower{whole}(Block<1, Acc>{{x}}).v[0];
  }
};

template <class Acc, class S>
void tone_curve(const ToneCurveOp& op, int64_t begin, int64_t end) {
  const S* mask = static_cast<const S*>(op.mask) + begin;
  S* out = static_cast<S*>(op.out) + begin;
  const MaskTone<Acc, AnyPower<Acc>> curve(op.curve);
  Row<Acc>(end - begin).each([&](int64_t i, int64_t, const auto& how) FASTCAM_INLINE_LAMBDA {
    how.template write<Acc>(out + i, curve(how.template read<Acc>(mask + i)));
  });
}

template <class Acc, class S>
void tone_curve_backward(const ToneCurveOp& op, int64_t begin, int64_t end) {
  const S* mask = static_cast<const S*>(op.mask) + begin;
  const S* grad = static_cast<const S*>(op.grad) + begin;
  S* out = static_cast<S*>(op.out) + begin;
  const MaskToneSlope<Acc, AnyPower<Acc>> slope(op.curve);
  Row<Acc>(end - begin).each([&](int64_t i, int64_t, const auto& how) FASTCAM_INLINE_LAMBDA {
    const Vec<Acc> of_mask = slope(how.template read<Acc>(mask + i));
    how.template write<Acc>(out + i, Vec<Acc>(how.template read<Acc>(grad + i) * of_mask));
  });
}

}  // namespace fastcam::FASTCAM_ISA
