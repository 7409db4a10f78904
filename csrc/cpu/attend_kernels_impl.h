// The tone curve and attend on the CPU, for the instruction set FASTCAM_ISA.
//
// A mask enters as its logit L. With e = exp(-|L|), q = sigmoid(-|L|) = e / (1 + e) is stable at
// any L, and with u = 2 q the curve is h = u^n / 2 for L < 0, mirrored (1 - u^n / 2) for L >= 0,
// with dh/dL = n (u^n / 2) (1 - q). Both need one exp, and one power: whole n by squaring, n and a
// half as a whole power of the root of u, any other n through log u = log 2 - |L| - log(1 + e).
#include "attend_kernels.h"
#include "vec_math.h"

#include "../math.cuh"

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
  } else if (n >= 0 && n < 1024 && n == int(n)) {
    f(WholeCurve<Form::kItself, AnyWholePower>{{int(n)}});
  } else if (n >= 0 && n < 512 && 2 * n == int(2 * n)) {
    f(WholeCurve<Form::kRoot, AnyWholePower>{{int(2 * n)}});
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
    f([&](const auto& form) FASTCAM_BODY { return curve.raised(form); });
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
  Acc* behind() const { return u_ + 3 * stride_; }

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

// ---- rows of cells
// -------------------------------------------------------------------------------

// How a vector lies in its row. A row ends in a vector that reaches back into the one before
// (Last), so that it is read and written whole; what both hold is the same, and counts once in
// sums. Only rows shorter than a vector (Short) go through a buffer.
struct Whole {
  template <class Acc, class S>
  FASTCAM_INLINE Vec<Acc> read(const S* from) const {
    return load(from);
  }
  template <class Acc, class S>
  FASTCAM_INLINE void write(S* to, const Vec<Acc>& v) const {
    store(to, v);
  }
  template <class Acc>
  FASTCAM_INLINE Vec<Acc> once(const Vec<Acc>& v) const {
    return v;
  }
};
template <class Acc>
struct Last : Whole {
  LaneInts<Acc> fresh;  // all ones in the lanes that no vector before holds
  template <class>
  FASTCAM_INLINE Vec<Acc> once(const Vec<Acc>& v) const {
    return (Vec<Acc>)((LaneInts<Acc>)v & fresh);  // whatever the others are, NaN included
  }
};
struct Short {
  int64_t count;
  template <class Acc, class S>
  FASTCAM_INLINE Vec<Acc> read(const S* from) const {
    return load_partial<Acc>(from, count);
  }
  template <class Acc, class S>
  FASTCAM_INLINE void write(S* to, const Vec<Acc>& v) const {
    store_partial<Acc>(to, v, count);
  }
  template <class Acc>
  FASTCAM_INLINE Vec<Acc> once(const Vec<Acc>& v) const {
    return keep_first<Acc>(v, count);
  }
};

template <class Acc>
class Row {
public:
  explicit Row(int64_t cells) : cells_(cells), rest_(cells % kLanes<Acc>) {
    last_.fresh = lane_numbers<Acc>() >= (LaneInts<Acc>{} + IntOf<Acc>(kLanes<Acc> - rest_));
  }

  int64_t count() const { return cells_; }
  int64_t padded() const { return cells_ + (rest_ == 0 ? 0 : kLanes<Acc> - rest_); }

  // Calls body(position, slot, how it lies) for each vector. `slot` is where a row of scratch
  // memory holds it: vectors do not overlap there.
  template <class Body>
  FASTCAM_INLINE void each(const Body& body) const {
    constexpr int64_t L = kLanes<Acc>;
    int64_t p = 0;
    for (; p + L <= cells_; p += L) body(p, p, Whole{});
    if (rest_ == 0) return;
    if (p > 0) {
      body(cells_ - L, p, last_);
    } else {
      body(0, 0, Short{rest_});
    }
  }

private:
  int64_t cells_;
  int64_t rest_;
  Last<Acc> last_;
};

// Asks for a cache line that is needed soon: the processor's own prefetching stops at the end of
// each page of 4 KB. Any address will do, past the end too.
FASTCAM_INLINE void ask_for(const void* address) { __builtin_prefetch(address, 0, 2); }
// How far ahead where memory is read in its order.
inline constexpr int64_t kAheadBytes = 8192;
template <class S>
inline constexpr int64_t kAhead = kAheadBytes / int64_t(sizeof(S));

// ---- attend, forward
// -----------------------------------------------------------------------------

// The rows (n, k, c) from `begin` on, one after the other; row / (K C) without a division for each.
template <class Acc, class S>
class Rows {
public:
  Rows(const AttendForward& op, int64_t begin) : op_(op), row_(begin) {
    channel_ = begin % op.shape.channels;
    attribute_ = begin / op.shape.channels % op.shape.attributes;
    image_ = begin / op.shape.channels / op.shape.attributes;
  }
  FASTCAM_INLINE void next() {
    ++row_;
    if (++channel_ < op_.shape.channels) return;
    channel_ = 0;
    if (++attribute_ < op_.shape.attributes) return;
    attribute_ = 0;
    ++image_;
  }
  FASTCAM_INLINE int64_t index() const { return row_; }
  FASTCAM_INLINE const S* logits() const {
    return static_cast<const S*>(op_.logits) + row_ * op_.shape.cells;
  }
  FASTCAM_INLINE const S* features() const {
    const int64_t row = image_ * op_.shape.channels + channel_;
    return static_cast<const S*>(op_.features) + row * op_.shape.cells;
  }
  // Of curve j: a row, or its mean.
  FASTCAM_INLINE S* out(int64_t j) const {
    const AttendShape& s = op_.shape;
    const int64_t rows = s.batch * s.attributes * s.channels;
    return static_cast<S*>(op_.out) + (j * rows + row_) * (op_.pool ? 1 : s.cells);
  }
  FASTCAM_INLINE Acc* mask_sum() const { return static_cast<Acc*>(op_.mask_sum) + row_; }

private:
  const AttendForward& op_;
  int64_t row_, channel_, attribute_, image_;
};

template <class Acc, class S>
FASTCAM_INLINE void store_one(S* to, Acc value) {
  store_partial<Acc>(to, splat(value), 1);
}

// One row under one curve: all of it in registers, from the logits to the result.
template <bool kPool, class Acc, class S, class Curve>
FASTCAM_INLINE void attend_row(const Rows<Acc, S>& row, const Row<Acc>& cells, const Curve& curve,
                               const Gain<Acc>& gain, int64_t j) {
  const S* features = row.features();
  const S* logits = row.logits();
  S* out = row.out(j);
  Vec<Acc> masks{};
  Vec<Acc> total{};
  cells.each([&](int64_t p, int64_t, const auto& how) FASTCAM_BODY {
    ask_for(logits + p + kAhead<S>);
    const Mask<Acc> m = mask_of<Acc>(how.template read<Acc>(logits + p));
    const Vec<Acc> z =
        gain.factor(m.logit, curve.template raised<Acc>(m)) * how.template read<Acc>(features + p);
    masks += how.template once<Acc>(twice_the_mask<Acc>(m));
    if constexpr (kPool) {
      total += how.template once<Acc>(z);
    } else {
      how.template write<Acc>(out + p, z);
    }
  });
  *row.mask_sum() = horizontal_sum<Acc>(masks) / 2;
  if constexpr (kPool) store_one(out, horizontal_sum<Acc>(total) / Acc(cells.count()));
}

// Several curves, not pooled: the logits are read once, what the curves need of them waits in the
// cache.
template <class Acc, class S>
FASTCAM_INLINE void attend_row_often(const AttendForward& op, const Rows<Acc, S>& row,
                                     const Row<Acc>& cells, const Forms<Acc>& forms) {
  Acc* sign = forms.behind();
  const S* features = row.features();
  const S* logits = row.logits();
  Vec<Acc> masks{};
  cells.each([&](int64_t p, int64_t slot, const auto& how) FASTCAM_BODY {
    ask_for(logits + p + kAhead<S>);
    const Mask<Acc> m = mask_of<Acc>(how.template read<Acc>(logits + p));
    forms.write(slot, m);
    store(sign + slot, m.logit);
    masks += how.template once<Acc>(twice_the_mask<Acc>(m));
  });
  *row.mask_sum() = horizontal_sum<Acc>(masks) / 2;
  for (int64_t j = 0; j < op.curve_count; ++j) {
    const Gain<Acc> gain(op.curves[j].beta);
    S* out = row.out(j);
    with_curve(op.curves[j].n, [&](auto curve) FASTCAM_BODY {
      const Acc* form = forms.of(decltype(curve)::kForm);
      cells.each([&](int64_t p, int64_t slot, const auto& how) FASTCAM_BODY {
        const Vec<Acc> t = curve.raised(Block<1, Acc>::read(form + slot)).v[0];
        const Vec<Acc> f = how.template read<Acc>(features + p);
        how.template write<Acc>(out + p, Vec<Acc>(gain.factor(load(sign + slot), t) * f));
      });
    });
  }
}

// Several curves, pooled. With s F = -F where L >= 0, else F, and t = u^n,
//   sum (1 + g) F = 2 sum_{L >= 0} F + (1 - beta) sum_{L < 0} F + (1 + beta) / 2 sum s F t:
// only the last sum differs between the curves, and it is one product once t is there. kRows rows
// go together, so that sums do not wait for each other. An infinite feature makes NaN of that
// formula where the product itself does not, so that such rows are done again one by one.
template <int kRows, class Acc, class S>
FASTCAM_INLINE void pool_rows_often(const AttendForward& op, const Rows<Acc, S>& at,
                                    const Row<Acc>& cells, const Forms<Acc>& forms) {
  constexpr int64_t L = kLanes<Acc>;
  const int64_t padded = cells.padded();
  Acc* signed_f = forms.behind();
  Acc above[kRows], below[kRows];
  Rows<Acc, S> row = at;
  for (int r = 0; r < kRows; ++r, row.next()) {
    const S* features = row.features();
    const S* logits = row.logits();
    Vec<Acc> masks{}, positive{}, negative{};
    cells.each([&](int64_t p, int64_t slot, const auto& how) FASTCAM_BODY {
      ask_for(logits + p + kAhead<S>);
      const Vec<Acc> logit = how.template read<Acc>(logits + p);
      const Vec<Acc> f = how.template once<Acc>(how.template read<Acc>(features + p));
      const Mask<Acc> m = mask_of<Acc>(logit);
      const int64_t i = slot * kRows + r * L;
      forms.write(i, m);
      store(signed_f + i, Vec<Acc>((logit >= Acc(0)) ? -f : f));
      masks += how.template once<Acc>(twice_the_mask<Acc>(m));
      positive += (logit >= Acc(0)) ? f : Vec<Acc>{};
      negative += (logit >= Acc(0)) ? Vec<Acc>{} : f;
    });
    Acc sums[4] = {};
    add_four_sums<Acc>({masks, positive, negative, Vec<Acc>{}}, sums);
    *row.mask_sum() = sums[0] / 2;
    above[r] = sums[1];
    below[r] = sums[2];
  }
  const Acc cell_share = Acc(1) / Acc(cells.count());
  for (int64_t j = 0; j < op.curve_count; ++j) {
    const Gain<Acc> gain(op.curves[j].beta);
    with_curve(op.curves[j].n, [&](auto curve) FASTCAM_BODY {
      const Acc* form = forms.of(decltype(curve)::kForm);
      Vec<Acc> totals[kRows] = {};
      with_short_power(curve, [&](const auto& power) FASTCAM_BODY {
        for (int64_t i = 0; i < padded * kRows; i += L * kRows) {
          const Block<kRows, Acc> t = power(Block<kRows, Acc>::read(form + i));
          for (int r = 0; r < kRows; ++r) totals[r] += load(signed_f + i + r * L) * t.v[r];
        }
      });
      S* out = at.out(j);
      Acc products[kRows] = {};
      if constexpr (kRows == 4) {
        add_four_sums<Acc>(totals, products);
      } else {
        for (int r = 0; r < kRows; ++r) products[r] = horizontal_sum<Acc>(totals[r]);
      }
      for (int r = 0; r < kRows; ++r) {
        const Acc sum = 2 * above[r] + gain.low * below[r] + gain.half * products[r];
        if (sum - sum == Acc(0)) {
          store_one(out + r, sum * cell_share);
        } else {
          Rows<Acc, S> again = at;
          for (int skipped = 0; skipped < r; ++skipped) again.next();
          attend_row<true>(again, cells, curve, gain, j);
        }
      }
    });
  }
}

template <class Acc, class S>
void attend_forward(const AttendForward& op, int64_t begin, int64_t end, void* scratch) {
  const Row<Acc> cells(op.shape.cells);
  Rows<Acc, S> row(op, begin);
  Acc* memory = static_cast<Acc*>(scratch);
  if (op.curve_count == 1) {
    const Gain<Acc> gain(op.curves[0].beta);
    with_curve(op.curves[0].n, [&](auto curve) {
      if (op.pool) {
        for (; row.index() < end; row.next()) attend_row<true>(row, cells, curve, gain, 0);
      } else {
        for (; row.index() < end; row.next()) attend_row<false>(row, cells, curve, gain, 0);
      }
    });
    return;
  }
  const Forms<Acc> forms(op, memory, kAttendRows * cells.padded());
  if (!op.pool) {
    for (; row.index() < end; row.next()) attend_row_often(op, row, cells, forms);
    return;
  }
  while (end - row.index() >= kAttendRows) {
    pool_rows_often<kAttendRows>(op, row, cells, forms);
    for (int r = 0; r < kAttendRows; ++r) row.next();
  }
  for (; row.index() < end; row.next()) pool_rows_often<1>(op, row, cells, forms);
}

// ---- attend, backward
// ----------------------------------------------------------------------------

// A block of channels at a time: their rows are one piece of memory under each attribute, and their
// features and the gradient with respect to them stay in the cache while attribute follows
// attribute.
template <bool kPool, class Acc, class S, class Curve>
FASTCAM_INLINE void attend_backward_with(const AttendBackward& op, const Curve& curve,
                                         int64_t begin, int64_t end, Acc* sums) {
  const AttendShape& shape = op.shape;
  const int64_t K = shape.attributes;
  const int64_t C = shape.channels;
  const int64_t P = shape.cells;
  const int64_t most = attend_block_channels(P);
  const Row<Acc> cells(P);
  const int64_t padded = cells.padded();
  const Gain<Acc> gain(op.curve.beta);
  const Acc slope = gain.half * Acc(op.curve.n);  // dg/dL = slope t (1 - q)
  for (int64_t unit = begin; unit < end;) {
    const int64_t n = unit / C;
    const int64_t first = unit % C;
    int64_t count = C - first;
    if (count > end - unit) count = end - unit;
    if (count > most) count = most;
    const S* features = static_cast<const S*>(op.features) + unit * P;
    for (int64_t i = 0; i < count * padded; i += kLanes<Acc>) store(sums + i, Vec<Acc>{});
    for (int64_t k = 0; k < K; ++k) {
      // Of sum M; halved, because it meets u = 2 q.
      const Acc grad_sum =
          op.grad_mask_sum ? static_cast<const Acc*>(op.grad_mask_sum)[n * K + k] / 2 : Acc(0);
      for (int64_t i = 0; i < count; ++i) {
        const int64_t row = (n * K + k) * C + first + i;
        const S* f = features + i * P;
        const S* logits = static_cast<const S*>(op.logits) + row * P;
        const S* grad_out = static_cast<const S*>(op.grad_out) + (kPool ? row : row * P);
        S* grad_logits = op.grad_logits ? static_cast<S*>(op.grad_logits) + row * P : nullptr;
        Acc* sum = sums + i * padded;
        const Vec<Acc> pooled =
            kPool ? splat(load_partial<Acc>(grad_out, 1)[0] / Acc(P)) : Vec<Acc>{};
        cells.each([&](int64_t p, int64_t slot, const auto& how) FASTCAM_BODY {
          const Mask<Acc> m = mask_of<Acc>(how.template read<Acc>(logits + p));
          ask_for(logits + C * P + p);  // the same cells under the next attribute
          if constexpr (!kPool) ask_for(grad_out + C * P + p);
          const Vec<Acc> t = curve.template raised<Acc>(m);
          Vec<Acc> dz = pooled;
          if constexpr (!kPool) dz = how.template read<Acc>(grad_out + p);
          store(sum + slot, Vec<Acc>(load(sum + slot) + dz * gain.factor(m.logit, t)));
          if (grad_logits != nullptr) {
            const Vec<Acc> of_curve = dz * slope * how.template read<Acc>(f + p) * t;
            const Vec<Acc> rest = Acc(1) - Acc(0.5) * m.u;  // sigmoid(|L|)
            how.template write<Acc>(grad_logits + p, Vec<Acc>((of_curve + grad_sum * m.u) * rest));
          }
        });
      }
    }
    if (op.grad_features != nullptr) {
      for (int64_t i = 0; i < count; ++i) {
        S* out = static_cast<S*>(op.grad_features) + (unit + i) * P;
        cells.each([&](int64_t p, int64_t slot, const auto& how) FASTCAM_BODY {
          how.template write<Acc>(out + p, load(sums + i * padded + slot));
        });
      }
    }
    unit += count;
  }
}

template <class Acc, class S>
void attend_backward(const AttendBackward& op, int64_t begin, int64_t end, void* scratch) {
  with_curve(op.curve.n, [&](auto curve) {
    if (op.pool) {
      attend_backward_with<true, Acc, S>(op, curve, begin, end, static_cast<Acc*>(scratch));
    } else {
      attend_backward_with<false, Acc, S>(op, curve, begin, end, static_cast<Acc*>(scratch));
    }
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
      return AnyWholePower{int(n)}(Block<1, Acc>{{x}}).v[0];
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
  Row<Acc>(end - begin).each([&](int64_t i, int64_t, const auto& how) FASTCAM_BODY {
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
  Row<Acc>(end - begin).each([&](int64_t i, int64_t, const auto& how) FASTCAM_BODY {
    const Vec<Acc> m = how.template read<Acc>(mask + i);
    const Vec<Acc> x = Acc(2) * ((m < Acc(0.5)) ? m : Acc(1) - m);
    // n = 0 is flat; 0 * x^-1 would be NaN at x = 0.
    const Vec<Acc> slope = n == Acc(0) ? Vec<Acc>(m - m) : Vec<Acc>(gain * power(x));
    how.template write<Acc>(out + i, Vec<Acc>(how.template read<Acc>(grad + i) * slope));
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
