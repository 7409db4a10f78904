// The tone curve and attend on the CPU, for the instruction set FASTCAM_ISA.
//
// A mask enters as its logit L. With e = exp(-|L|), q = sigmoid(-|L|) = e / (1 + e) is stable at
// any L, and with u = 2 q the curve is h = u^n / 2 for L < 0, mirrored (1 - u^n / 2) for L >= 0,
// with dh/dL = n (u^n / 2) (1 - q). Both need one exp, and one power: whole n by squaring, any
// other n through log u = log 2 - |L| - log(1 + e).
#include "attend_kernels.h"
#include "vec_math.h"

#include "../math.cuh"

namespace fastcam::FASTCAM_ISA {

// What of a vector of logits the curves need.
template <class Acc>
struct Mask {
  Vec<Acc> u;         // 2 sigmoid(-|L|), in [0, 1]
  Vec<Acc> log_u;     // only if asked for
  Vec<Acc> positive;  // L: only its sign matters
};

template <bool kLog, class Acc>
FASTCAM_INLINE Mask<Acc> mask_of(const Vec<Acc>& logit) {
  const Vec<Acc> magnitude = absolute<Acc>(logit);
  const Vec<Acc> e = exp_(Vec<Acc>(-magnitude));
  Mask<Acc> mask{Acc(2) * e / (Acc(1) + e), {}, logit};
  if constexpr (kLog) mask.log_u = Acc(0.69314718055994531) - magnitude - log1p_unit(e);
  return mask;
}

// u^n / 2, the lower branch of h.
template <class Power>
struct WholeCurve {
  Power power;
  static constexpr bool kLog = false;
  template <class Acc>
  FASTCAM_INLINE Vec<Acc> lower(const Mask<Acc>& m) const {
    return Acc(0.5) * power.template raise<Acc>(m.u);
  }
};
struct FractionalCurve {
  double n;
  static constexpr bool kLog = true;
  template <class Acc>
  FASTCAM_INLINE Vec<Acc> lower(const Mask<Acc>& m) const {
    return Acc(0.5) * exp_(Vec<Acc>(Acc(n) * m.log_u));
  }
};

template <class F>
FASTCAM_INLINE void with_curve(double n, const F& f) {
  if (n == 1) {
    f(WholeCurve<WholePower<1>>{});
  } else if (n == 4) {
    f(WholeCurve<WholePower<4>>{});
  } else if (n >= 0 && n < 1024 && n == int(n)) {
    f(WholeCurve<AnyWholePower>{{int(n)}});
  } else {
    f(FractionalCurve{n});
  }
}

template <class Acc>
FASTCAM_INLINE Vec<Acc> mirrored(const Mask<Acc>& m, const Vec<Acc>& lower) {
  return (m.positive >= Acc(0)) ? Acc(1) - lower : lower;
}

// ---- attend, forward
// -----------------------------------------------------------------------------

// Calls body(position, count): whole vectors with count = lanes, then the rest.
template <class Acc, class Body>
FASTCAM_INLINE void over_cells(int64_t cells, const Body& body) {
  constexpr int L = kLanes<Acc>;
  int64_t p = 0;
  for (; p + L <= cells; p += L) body(p, std::integral_constant<int64_t, L>{});
  if (p < cells) body(p, cells - p);
}
template <class Acc, class S, class Count>
FASTCAM_INLINE Vec<Acc> read(const S* from, Count count) {
  if constexpr (std::is_same_v<Count, int64_t>) {
    return load_partial<Acc>(from, count);
  } else {
    return load(from);
  }
}
template <class Acc, class S, class Count>
FASTCAM_INLINE void write(S* to, const Vec<Acc>& v, Count count) {
  if constexpr (std::is_same_v<Count, int64_t>) {
    store_partial<Acc>(to, v, count);
  } else {
    store(to, v);
  }
}
// A sum over cells must not see the lanes behind the last one.
template <class Acc, class Count>
FASTCAM_INLINE Vec<Acc> counted(const Vec<Acc>& v, Count count) {
  if constexpr (std::is_same_v<Count, int64_t>) {
    return keep_first<Acc>(v, count);
  } else {
    return v;
  }
}

template <class Acc, class S>
void attend_forward(const AttendForward& op, int64_t begin, int64_t end, void* scratch) {
  const AttendShape& shape = op.shape;
  const int64_t P = shape.cells;
  const int64_t rows = shape.batch * shape.attributes * shape.channels;
  const int64_t padded = (P + kLanes<Acc> - 1) / kLanes<Acc> * kLanes<Acc>;
  Acc* u = static_cast<Acc*>(scratch);
  Acc* log_u = u + padded;
  Acc* sign = log_u + padded;
  bool log = false;
  for (int64_t j = 0; j < op.curve_count; ++j) {
    with_curve(op.curves[j].n, [&](auto curve) { log |= decltype(curve)::kLog; });
  }
  for (int64_t row = begin; row < end; ++row) {
    const int64_t c = row % shape.channels;
    const int64_t n = row / (shape.channels * shape.attributes);
    const S* features = static_cast<const S*>(op.features) + (n * shape.channels + c) * P;
    const S* logits = static_cast<const S*>(op.logits) + row * P;

    // The logits are read once; what the curves need of them waits in the cache.
    Vec<Acc> sum{};
    const auto prepare = [&](auto with_log) __attribute__((always_inline)) {
      over_cells<Acc>(P, [&](int64_t p, auto count) __attribute__((always_inline)) {
        const Mask<Acc> m = mask_of<decltype(with_log)::value, Acc>(read<Acc>(logits + p, count));
        store(u + p, m.u);
        store(sign + p, m.positive);
        if constexpr (decltype(with_log)::value) store(log_u + p, m.log_u);
        sum += counted<Acc>(mirrored<Acc>(m, Acc(0.5) * m.u), count);
      });
    };
    if (log) {
      prepare(std::true_type{});
    } else {
      prepare(std::false_type{});
    }
    static_cast<Acc*>(op.mask_sum)[row] = horizontal_sum<Acc>(sum);

    for (int64_t j = 0; j < op.curve_count; ++j) {
      const Acc gain = Acc(1) + Acc(op.curves[j].beta);
      const Acc offset = Acc(1) - Acc(op.curves[j].beta);
      with_curve(op.curves[j].n, [&](auto curve) __attribute__((always_inline)) {
        const auto attended = [&](int64_t p, auto count) __attribute__((always_inline)) {
          const Mask<Acc> m{load(u + p), curve.kLog ? load(log_u + p) : Vec<Acc>{}, load(sign + p)};
          const Vec<Acc> h = mirrored<Acc>(m, curve.template lower<Acc>(m));
          return Vec<Acc>((offset + gain * h) * read<Acc>(features + p, count));
        };
        if (op.pool) {
          Vec<Acc> total{};
          over_cells<Acc>(P, [&](int64_t p, auto count) __attribute__((always_inline)) {
            total += counted<Acc>(attended(p, count), count);
          });
          const Acc mean = horizontal_sum<Acc>(total) / Acc(P);
          store_partial<Acc>(static_cast<S*>(op.out) + j * rows + row, splat(mean), 1);
        } else {
          S* out = static_cast<S*>(op.out) + (j * rows + row) * P;
          over_cells<Acc>(P, [&](int64_t p, auto count) __attribute__((always_inline)) {
            write<Acc>(out + p, attended(p, count), count);
          });
        }
      });
    }
  }
}

// ---- attend, backward
// ----------------------------------------------------------------------------

template <class Acc, class S, class Curve>
FASTCAM_INLINE void attend_backward_with(const AttendBackward& op, const Curve& curve,
                                         int64_t begin, int64_t end, Acc* grad_row) {
  const AttendShape& shape = op.shape;
  const int64_t K = shape.attributes;
  const int64_t C = shape.channels;
  const int64_t P = shape.cells;
  const Acc gain = Acc(1) + Acc(op.curve.beta);
  const Acc offset = Acc(1) - Acc(op.curve.beta);
  const Acc power = Acc(op.curve.n);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t n = unit / C;
    const int64_t c = unit % C;
    const S* features = static_cast<const S*>(op.features) + unit * P;
    over_cells<Acc>(P, [&](int64_t p, auto) { store(grad_row + p, Vec<Acc>{}); });
    for (int64_t k = 0; k < K; ++k) {
      const int64_t row = (n * K + k) * C + c;
      const S* logits = static_cast<const S*>(op.logits) + row * P;
      const S* grad_out = static_cast<const S*>(op.grad_out) + (op.pool ? row : row * P);
      S* grad_logits = op.grad_logits ? static_cast<S*>(op.grad_logits) + row * P : nullptr;
      const Acc grad_sum =
          op.grad_mask_sum ? static_cast<const Acc*>(op.grad_mask_sum)[n * K + k] : Acc(0);
      const Vec<Acc> pooled =
          op.pool ? splat(load_partial<Acc>(grad_out, 1)[0] / Acc(P)) : Vec<Acc>{};
      over_cells<Acc>(P, [&](int64_t p, auto count) __attribute__((always_inline)) {
        const Mask<Acc> m = mask_of<Curve::kLog, Acc>(read<Acc>(logits + p, count));
        const Vec<Acc> lower = curve.template lower<Acc>(m);
        const Vec<Acc> dz = op.pool ? pooled : read<Acc>(grad_out + p, count);
        const Vec<Acc> factor = offset + gain * mirrored<Acc>(m, lower);
        store(grad_row + p, Vec<Acc>(load(grad_row + p) + dz * factor));
        if (grad_logits != nullptr) {
          const Vec<Acc> q = Acc(0.5) * m.u;
          const Vec<Acc> rest = Acc(1) - q;  // sigmoid(|L|)
          const Vec<Acc> of_curve = dz * read<Acc>(features + p, count) * (gain * power) * lower;
          write<Acc>(grad_logits + p, Vec<Acc>((of_curve + grad_sum * q) * rest), count);
        }
      });
    }
    if (op.grad_features != nullptr) {
      S* out = static_cast<S*>(op.grad_features) + unit * P;
      over_cells<Acc>(
          P, [&](int64_t p, auto count) { write<Acc>(out + p, load(grad_row + p), count); });
    }
  }
}

template <class Acc, class S>
void attend_backward(const AttendBackward& op, int64_t begin, int64_t end, void* scratch) {
  with_curve(op.curve.n, [&](auto curve) {
    attend_backward_with<Acc, S>(op, curve, begin, end, static_cast<Acc*>(scratch));
  });
}

// ---- tone curve
// ----------------------------------------------------------------------------------

// x^n of 0 <= x <= 1 for any n, lane by lane where n is not whole.
template <class Acc>
struct AnyPower {
  Acc n;
  FASTCAM_INLINE Vec<Acc> operator()(const Vec<Acc>& x) const {
    if (n >= 0 && n < 1024 && n == Acc(int(n))) {
      return AnyWholePower{int(n)}.template raise<Acc>(x);
    }
    Vec<Acc> y;
    for (int i = 0; i < kLanes<Acc>; ++i) y[i] = pow_(x[i], n);
    return y;
  }
};

template <class Acc, class S>
void tone_curve(const ToneCurveOp& op, int64_t begin, int64_t end) {
  const S* mask = static_cast<const S*>(op.mask) + begin;
  S* out = static_cast<S*>(op.out) + begin;
  const AnyPower<Acc> power{Acc(op.curve.n)};
  const Acc beta = Acc(op.curve.beta);
  over_cells<Acc>(end - begin, [&](int64_t i, auto count) {
    const Vec<Acc> m = read<Acc>(mask + i, count);
    const auto low = m < Acc(0.5);
    const Vec<Acc> part = Acc(0.5) * power(Acc(2) * (low ? m : Acc(1) - m));
    write<Acc>(out + i, Vec<Acc>((Acc(1) + beta) * (low ? part : Acc(1) - part) - beta), count);
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
  over_cells<Acc>(end - begin, [&](int64_t i, auto count) {
    const Vec<Acc> m = read<Acc>(mask + i, count);
    const Vec<Acc> x = Acc(2) * ((m < Acc(0.5)) ? m : Acc(1) - m);
    // n = 0 is flat; 0 * x^-1 would be NaN at x = 0.
    const Vec<Acc> slope = n == Acc(0) ? Vec<Acc>(m - m) : Vec<Acc>(gain * power(x));
    write<Acc>(out + i, Vec<Acc>(read<Acc>(grad + i, count) * slope), count);
  });
}

// ---- run-time types become compile-time ones
// -----------------------------------------------------

const AttendKernels kAttendKernels = {
    [](const ToneCurveOp& op, ScalarKind kind, int64_t begin, int64_t end) {
      with_storage(kind,
                   [&](auto s) { tone_curve<AccOf<decltype(s)>, decltype(s)>(op, begin, end); });
    },
    [](const ToneCurveOp& op, ScalarKind kind, int64_t begin, int64_t end) {
      with_storage(kind, [&](auto s) {
        tone_curve_backward<AccOf<decltype(s)>, decltype(s)>(op, begin, end);
      });
    },
    [](const AttendForward& op, ScalarKind kind, int64_t begin, int64_t end, void* scratch) {
      with_storage(kind, [&](auto s) {
        attend_forward<AccOf<decltype(s)>, decltype(s)>(op, begin, end, scratch);
      });
    },
    [](const AttendBackward& op, ScalarKind kind, int64_t begin, int64_t end, void* scratch) {
      with_storage(kind, [&](auto s) {
        attend_backward<AccOf<decltype(s)>, decltype(s)>(op, begin, end, scratch);
      });
    },
};

}  // namespace fastcam::FASTCAM_ISA
