// The backward of attend on the CPU, for the instruction set FASTCAM_ISA.
#pragma once

#include "cpu/kernels/attend_curves.h"
#include "cpu/kernels/attend_rows.h"

namespace fastcam::FASTCAM_ISA {

// A block of channels at a time: their features and the gradient with respect to them stay in the
// cache for all attributes.
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
  for (int64_t channel = begin; channel < end;) {
    const int64_t n = channel / C;
    const int64_t first = channel % C;
    int64_t count = C - first;
    if (count > end - channel) count = end - channel;
    if (count > most) count = most;
    const S* features = static_cast<const S*>(op.features) + channel * P;
    for (int64_t i = 0; i < count * padded; i += kLanes<Acc>) store(sums + i, Vec<Acc>{});
    for (int64_t k = 0; k < K; ++k) {
      // Of sum M; halved, because it is multiplied by u = 2 q.
      const Acc grad_sum =
          op.grad_mask_sum ? static_cast<const Acc*>(op.grad_mask_sum)[n * K + k] / 2 : Acc(0);
      const auto at = [&](const RowStrides& s, int64_t i) {
        return n * s.n + k * s.k + (first + i) * s.c;
      };
      for (int64_t i = 0; i < count; ++i) {
        const int64_t row = (n * K + k) * C + first + i;
        const S* f = features + i * P;
        const S* logits = static_cast<const S*>(op.logits) + at(op.strides, i);
        const S* grad_out = static_cast<const S*>(op.grad_out) + (kPool ? row : row * P);
        S* grad_logits =
            op.grad_logits ? static_cast<S*>(op.grad_logits) + at(op.grad_strides, i) : nullptr;
        Acc* sum = sums + i * padded;
        const Vec<Acc> pooled =
            kPool ? splat(load_partial<Acc>(grad_out, 1)[0] / Acc(P)) : Vec<Acc>{};
        cells.each([&](int64_t p, int64_t slot, const auto& how) FASTCAM_INLINE_LAMBDA {
          const Mask<Acc> m = mask_of<Acc>(how.template read<Acc>(logits + p));
          prefetch_line(logits + op.strides.k + p);  // the same cells under the next attribute
          if constexpr (!kPool) prefetch_line(grad_out + C * P + p);
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
        S* out = static_cast<S*>(op.grad_features) + (channel + i) * P;
        cells.each([&](int64_t p, int64_t slot, const auto& how) FASTCAM_INLINE_LAMBDA {
          how.template write<Acc>(out + p, load(sums + i * padded + slot));
        });
      }
    }
    channel += count;
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

}  // namespace fastcam::FASTCAM_ISA
