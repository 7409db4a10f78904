// The curves of attend on vectors of logits, for the instruction set FASTCAM_ISA.
//
// A mask enters as its logit L. With e = exp(-|L|), q = sigmoid(-|L|) = e / (1 + e) is stable at
// any L, and with u = 2 q the curve is h = u^n / 2 for L < 0, mirrored (1 - u^n / 2) for L >= 0,
// with dh/dL = n (u^n / 2) (1 - q). Both need one exp, and one power: whole n by squaring, n and a
// half as a whole power of the root of u, any other n through log u = log 2 - |L| - log(1 + e).
#pragma once

#include "cpu/kernels/scratch.h"
#include "cpu/simd/vec_math.h"

namespace fastcam::FASTCAM_ISA {

// What of a vector of logits the curves need.
template <class Acc>
struct Mask {
  Vec<Acc> u;  // 2 sigmoid(-|L|), in [0, 1]
  Vec<Acc> e;  // exp(-|L|)
  Vec<Acc> logit;

  FASTCAM_INLINE Vec<Acc> root() const { return root_(u); }
  FASTCAM_INLINE Vec<Acc> log_u() const {
    return Acc(0.69314718055994531) + minus_absolute<Acc>(logit) - log1p_unit(e);
  }
};

template <class Acc>
FASTCAM_INLINE Mask<Acc> mask_of(const Vec<Acc>& logit) {
  const Vec<Acc> e = exp_(minus_absolute<Acc>(logit));
  return {(e + e) / (Acc(1) + e), e, logit};
}

// u^n, twice the lower branch of h, from the form of u that is easiest to raise.
enum class Form { kItself, kRoot, kLog };

template <Form kTheForm, class ThePower>
struct WholeCurve {
  using Power = ThePower;
  Power power;  // of u: n; of its root: 2 n
  static constexpr Form kForm = kTheForm;
  template <class Acc>
  FASTCAM_INLINE Vec<Acc> raised(const Mask<Acc>& m) const {
    return power(Block<1, Acc>{{kForm == Form::kRoot ? m.root() : m.u}}).v[0];
  }
  template <int kCount, class Acc>
  FASTCAM_INLINE Block<kCount, Acc> raised(const Block<kCount, Acc>& form) const {
    return power(form);
  }
};
struct FractionalCurve {
  using Power = void;
  double n;
  static constexpr Form kForm = Form::kLog;
  template <class Acc>
  FASTCAM_INLINE Vec<Acc> raised(const Mask<Acc>& m) const {
    return exp_(Vec<Acc>(Acc(n) * m.log_u()));
  }
  template <int kCount, class Acc>
  FASTCAM_INLINE Block<kCount, Acc> raised(const Block<kCount, Acc>& log_u) const {
    Block<kCount, Acc> t = log_u;
    for (Vec<Acc>& v : t.v) v = exp_(Vec<Acc>(Acc(n) * v));
    return t;
  }
};

template <class F>
FASTCAM_INLINE void with_curve(double n, const F& f) {
  if (n == 1) {
    f(WholeCurve<Form::kItself, WholePower<1>>{});
  } else if (n == 4) {
    f(WholeCurve<Form::kItself, WholePower<4>>{});
  } else if (whole_exponent(n) >= 0) {
    f(WholeCurve<Form::kItself, AnyWholePower>{{whole_exponent(n)}});
  } else if (whole_exponent(2 * n) >= 0) {
    f(WholeCurve<Form::kRoot, AnyWholePower>{{whole_exponent(2 * n)}});
  } else {
    f(FractionalCurve{n});
  }
}

// f(power), power the function from the curve's form to u^n; small whole powers without a loop.
template <class Curve, class F>
FASTCAM_INLINE void with_short_power(const Curve& curve, const F& f) {
  if constexpr (std::is_same_v<typename Curve::Power, AnyWholePower>) {
    switch (curve.power.exponent) {
      case 1: return f(WholePower<1>{});
      case 2: return f(WholePower<2>{});
      case 3: return f(WholePower<3>{});
      case 5: return f(WholePower<5>{});
      case 6: return f(WholePower<6>{});
      case 8: return f(WholePower<8>{});
      default: return f(curve.power);
    }
  } else {
    f([&](const auto& form) FASTCAM_INLINE_LAMBDA { return curve.raised(form); });
  }
}

// The forms of u that several curves need, each once: a row of scratch memory each.
template <class Acc>
class Forms {
public:
  Forms(const AttendForward& op, Acc* memory, int64_t stride) : stride_(stride), u_(memory) {
    for (int64_t j = 0; j < op.curve_count; ++j) {
      with_curve(op.curves[j].n, [&](auto curve) {
        root_ |= decltype(curve)::kForm == Form::kRoot;
        log_ |= decltype(curve)::kForm == Form::kLog;
      });
    }
  }
  FASTCAM_INLINE void write(int64_t i, const Mask<Acc>& m) const {
    store(u_ + i, m.u);
    if (root_) store(u_ + stride_ + i, m.root());
    if (log_) store(u_ + 2 * stride_ + i, m.log_u());
  }
  FASTCAM_INLINE const Acc* of(Form form) const { return u_ + int(form) * stride_; }
  Acc* after() const { return u_ + 3 * stride_; }

private:
  int64_t stride_;
  Acc* u_;
  bool root_ = false;
  bool log_ = false;
};

// 1 + g = 1 - beta + (1 + beta) h, with h = t / 2 or, mirrored, 1 - t / 2 of t = u^n.
template <class Acc>
struct Gain {
  Acc half;  // (1 + beta) / 2
  Acc low;   // 1 - beta
  explicit Gain(double beta) : half(Acc(1 + beta) / 2), low(Acc(1 - beta)) {}

  FASTCAM_INLINE Vec<Acc> factor(const Vec<Acc>& logit, const Vec<Acc>& t) const {
    const Vec<Acc> part = half * t;
    return (logit >= Acc(0)) ? Acc(2) - part : low + part;  // 1 - beta + 1 + beta = 2
  }
};

// 2 sigmoid(L).
template <class Acc>
FASTCAM_INLINE Vec<Acc> twice_the_mask(const Mask<Acc>& m) {
  return (m.logit >= Acc(0)) ? Acc(2) - m.u : m.u;
}

}  // namespace fastcam::FASTCAM_ISA
