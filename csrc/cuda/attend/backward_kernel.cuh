// attend backward in one launch, from L and F again:
//   grad_features[n,c,p]   = sum_k dZ (1 + g)                          the sum stays in registers
//   grad_logits[n,k,c,p]   = dZ F dg/dL + grad_mask_sum[n,k] dsigmoid/dL
// with dZ[n,k,c,p] = grad_out[n,k,c,p], pooled: grad_out[n,k,c] / P.
//
// The warps are as in the forward. If rows are few, several warps of a block (its members) share
// the attributes of the same rows and add up their sums at the end, in a fixed order.
#pragma once

#include "cuda/attend/forward_kernel.cuh"

namespace fastcam {

template <class S, bool kPool, int kRounds>
__global__ void __launch_bounds__(kAttendWarps* kWarp, kAttendFewBlocks<AccOf<S>>)
    attend_backward_kernel(const AttendBackward op, const AttendPlan plan,
                           const AttendCurve<AccOf<S>> curve) {
  using Acc = AccOf<S>;
  constexpr int A = kAtOnce<kRounds, !kPool>;
  const int warp = int(threadIdx.x) / kWarp;
  const int lane = int(threadIdx.x) % kWarp;
  const int cells = int(op.shape.cells);
  const int C = int(op.shape.channels);
  const int K = int(op.shape.attributes);

  const int n = int(blockIdx.x) / plan.tiles;
  const int tile = int(blockIdx.x) - n * plan.tiles;
  const int member = warp % plan.members;
  const int channel = tile * (plan.warps / plan.members) + warp / plan.members;
  const bool there = channel < C;
  Acc* others = static_cast<Acc*>(shared_memory());  // [warps, kRounds, lanes]

  const Acc slope = curve.half * curve.n;
  const Acc share = Acc(1) / Acc(cells);

#pragma unroll 1
  for (int first = 0; first < cells; first += plan.piece) {
    const int64_t feature = (int64_t(n) * C + channel) * cells + first;
    const S* features = static_cast<const S*>(op.features) + feature;
    const int count = cells - first < plan.piece ? cells - first : plan.piece;
    RowOfWarp<kRounds> row(features, there ? count : 0);
    S f[kRounds];
    Acc grad_f[kRounds] = {};
    row.read(features, S{}, f);

#pragma unroll 1
    for (int k = member * A; k < K && there; k += plan.members * A) {
      row.here = opaque(row.here);  // as in the forward
      const auto row_at = [&](const RowStrides& s, int a) {
        return n * s.n + (k + a) * s.k + channel * s.c + first;
      };
      const int64_t out_row = (int64_t(n) * K + k) * C + channel;
      S x[A][kRounds];
      S dz[A][kRounds];
      Acc of_row[A];
      Acc of_mask[A];
#pragma unroll
      for (int a = 0; a < A; ++a) {
        if (k + a >= K) continue;
        row.read(static_cast<const S*>(op.logits) + row_at(op.strides, a), S{}, x[a]);
        const S* grad_out = static_cast<const S*>(op.grad_out);
        if constexpr (kPool) {
          of_row[a] = to_acc(load(grad_out + out_row + a * C));
        } else {
          row.read(grad_out + (out_row + a * C) * cells + first, S{}, dz[a]);
        }
        of_mask[a] = op.grad_mask_sum == nullptr
                         ? Acc(0)
                         : load(static_cast<const Acc*>(op.grad_mask_sum) + int64_t(n) * K + k + a);
      }
#pragma unroll
      for (int a = 0; a < A; ++a) {
        if (k + a >= K) continue;
        Acc u[kRounds];
        Acc t[kRounds];
#pragma unroll
        for (int i = 0; i < kRounds; ++i) {
          u[i] = twice_lower_mask(to_acc(x[a][i]));
        }
        curve.raise_logits(x[a], u, t);
        S* to = opaque(static_cast<S*>(op.grad_logits) + row_at(op.grad_strides, a) + row.cell);
#pragma unroll
        for (int i = 0; i < kRounds; ++i) {
          const Acc gradient = kPool ? share * of_row[a] : to_acc(dz[a][i]);
          grad_f[i] += gradient * curve.factor(to_acc(x[a][i]), t[i]);
          const Acc both = gradient * to_acc(f[i]) * (slope * t[i]) + Acc(0.5) * of_mask[a] * u[i];
          const Acc grad_logit = both * (Acc(1) - Acc(0.5) * u[i]);
          store_if(op.grad_logits != nullptr && row.has(i), to + i * kWarp,
                   from_acc<S>(grad_logit));
        }
      }
    }

    if (plan.members > 1) {
      Acc* mine = others + warp * (kRounds * kWarp) + lane;
      __syncthreads();
#pragma unroll
      for (int i = 0; i < kRounds; ++i) mine[i * kWarp] = grad_f[i];
      __syncthreads();
#pragma unroll 1
      for (int other = 1; other < plan.members && member == 0; ++other) {
#pragma unroll
        for (int i = 0; i < kRounds; ++i) grad_f[i] += mine[(other * kRounds + i) * kWarp];
      }
    }
    if (op.grad_features == nullptr || member != 0) continue;
    S* to = static_cast<S*>(op.grad_features) + feature + row.cell;
#pragma unroll
    for (int i = 0; i < kRounds; ++i) {
      store_if(row.has(i), to + i * kWarp, from_acc<S>(grad_f[i]));
    }
  }
}

}  // namespace fastcam
