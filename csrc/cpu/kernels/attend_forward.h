// The forward of attend on the CPU, for the instruction set FASTCAM_ISA.
#pragma once

#include "cpu/kernels/attend_curves.h"
#include "cpu/kernels/attend_rows.h"

namespace fastcam::FASTCAM_ISA {

// One row under one curve: all of it in registers, from the logits to the result.
template <bool kPool, class Acc, class S, class Curve>
FASTCAM_INLINE void attend_row(const Rows<Acc, S>& row, const Row<Acc>& cells, const Curve& curve,
                               const Gain<Acc>& gain, int64_t j) {
  const S* features = row.features();
  const S* logits = row.logits();
  S* out = row.out(j);
  Vec<Acc> masks{};
  Vec<Acc> total{};
  cells.each([&](int64_t p, int64_t, const auto& how) FASTCAM_INLINE_LAMBDA {
    prefetch_line(logits + p + kAhead<S>);
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

// Several curves, not pooled: the logits are read once, what the curves need of them is kept in the
// first-level cache.
template <class Acc, class S>
FASTCAM_INLINE void attend_row_often(const AttendForward& op, const Rows<Acc, S>& row,
                                     const Row<Acc>& cells, const Forms<Acc>& forms) {
  Acc* sign = forms.after();
  const S* features = row.features();
  const S* logits = row.logits();
  Vec<Acc> masks{};
  cells.each([&](int64_t p, int64_t slot, const auto& how) FASTCAM_INLINE_LAMBDA {
    prefetch_line(logits + p + kAhead<S>);
    const Mask<Acc> m = mask_of<Acc>(how.template read<Acc>(logits + p));
    forms.write(slot, m);
    store(sign + slot, m.logit);
    masks += how.template once<Acc>(twice_the_mask<Acc>(m));
  });
  *row.mask_sum() = horizontal_sum<Acc>(masks) / 2;
  for (int64_t j = 0; j < op.curve_count; ++j) {
    const Gain<Acc> gain(op.curves[j].beta);
    S* out = row.out(j);
    with_curve(op.curves[j].n, [&](auto curve) FASTCAM_INLINE_LAMBDA {
      const Acc* form = forms.of(decltype(curve)::kForm);
      cells.each([&](int64_t p, int64_t slot, const auto& how) FASTCAM_INLINE_LAMBDA {
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
  Acc* signed_f = forms.after();
  Acc above[kRows], below[kRows];
  Rows<Acc, S> row = at;
  for (int r = 0; r < kRows; ++r, row.next()) {
    const S* features = row.features();
    const S* logits = row.logits();
    Vec<Acc> masks{}, positive{}, negative{};
    cells.each([&](int64_t p, int64_t slot, const auto& how) FASTCAM_INLINE_LAMBDA {
      prefetch_line(logits + p + kAhead<S>);
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
    with_curve(op.curves[j].n, [&](auto curve) FASTCAM_INLINE_LAMBDA {
      const Acc* form = forms.of(decltype(curve)::kForm);
      Vec<Acc> totals[kRows] = {};
      with_short_power(curve, [&](const auto& power) FASTCAM_INLINE_LAMBDA {
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

}  // namespace fastcam::FASTCAM_ISA
