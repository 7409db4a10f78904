// attend backward in one launch, from L and F again:
//   grad_features[n,c,p]   = sum_k dZ (1 + g)                          the sum stays in registers
//   grad_logits[n,k,c,p]   = dZ F dg/dL + grad_mask_sum[n,k] dsigmoid/dL
// with dZ[n,k,c,p] = grad_out[n,k,c,p], pooled: grad_out[n,k,c] / P.
//
// No sums over cells: a block takes any run of vectors of one sample, under all attributes
// (plan.h). A thread has one vector of F. Where a sample has few vectors, groups of threads
// share the attributes and add up their sums at the end, in a fixed order.
#pragma once

#include "cuda/attend/forward_kernel.cuh"

namespace fastcam {

// Vectors in flight of one thread, each of L, and of dZ if there is one for each cell.
inline constexpr int kAttendBackwardUnroll = 2;

template <class S, bool kPool, int V>
FASTCAM_DEVICE void attend_backward_block(const AttendBackward& op, const AttendPlan& plan) {
  using Acc = AccOf<S>;
  using Vector = Vec<S, V>;
  constexpr int kUnroll = kAttendBackwardUnroll;
  const int thread = int(threadIdx.x);
  const int threads = int(blockDim.x);
  const int cells = int(op.shape.cells);
  const int attributes = int(op.shape.attributes);
  const int channels = int(op.shape.channels);
  const int sample = channels * cells;

  const int n = int(blockIdx.x) / plan.tiles;
  const int first_slot = (int(blockIdx.x) - n * plan.tiles) * plan.width;
  const int left = sample / V - first_slot;
  const int slots = left < plan.width ? left : plan.width;
  const int group = thread / plan.width;
  const int slot = thread - group * plan.width;
  const bool active = group < plan.groups && slot < slots;
  const int at = active ? (first_slot + slot) * V : 0;

  char* shared = static_cast<char*>(shared_memory());
  Vector* staged = reinterpret_cast<Vector*>(shared);
  Acc* of_mask = reinterpret_cast<Acc*>(shared + plan.staged_bytes);  // [batch]
  Acc* of_rows = of_mask + plan.batch;  // [batch, batch_channels], pooled
  Acc* group_sums = of_mask;            // [V, threads], at the end

  // All groups want the same features: read once.
  const S* features = static_cast<const S*>(op.features) + int64_t(n) * sample;
  if (thread < slots) {
    staged[thread] = load(reinterpret_cast<const Vector*>(features) + first_slot + thread);
  }
  const int channel = first_slot * V / cells;  // the block's first
  const int channels_met = ((first_slot + slots) * V - 1) / cells - channel + 1;
  const int my_channel = at / cells - channel;
  const int row_left = cells - at % cells;
  const int row_end = row_left < V ? row_left : V;  // values of the vector's first row

  const Attention<Acc> attention(op.curve);
  const int64_t row0 = int64_t(n) * attributes * channels;
  Acc sum[V];
#pragma unroll
  for (int e = 0; e < V; ++e) sum[e] = Acc(0);

#pragma unroll 1
  for (int k0 = 0; k0 < attributes; k0 += plan.batch) {
    const int count = attributes - k0 < plan.batch ? attributes - k0 : plan.batch;
    __syncthreads();
#pragma unroll 1
    for (int i = thread; i < count; i += threads) {
      of_mask[i] =
          op.grad_mask_sum == nullptr
              ? Acc(0)
              : load(static_cast<const Acc*>(op.grad_mask_sum) + int64_t(n) * attributes + k0 + i);
    }
    if constexpr (kPool) {
      const S* grad_out = static_cast<const S*>(op.grad_out) + row0 + channel;
#pragma unroll 1
      for (int i = thread; i < count * channels_met; i += threads) {
        const int k = i / channels_met;
        const int c = i - k * channels_met;
        of_rows[k * plan.batch_channels + c] =
            to_acc(load(grad_out + int64_t(k0 + k) * channels + c)) / Acc(cells);
      }
    }
    __syncthreads();

#pragma unroll 1
    for (int first = group; first < count && active; first += kUnroll * plan.groups) {
      Vector x[kUnroll];
      Vector dz[kUnroll];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const int k = first + u * plan.groups;
        if (k >= count) continue;
        const int64_t from = (row0 + int64_t(k0 + k) * channels) * cells + at;
        x[u] = load(reinterpret_cast<const Vector*>(static_cast<const S*>(op.logits) + from));
        if constexpr (!kPool) {
          dz[u] = load(reinterpret_cast<const Vector*>(static_cast<const S*>(op.grad_out) + from));
        }
      }
      const Vector f = staged[slot];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const int k = first + u * plan.groups;
        if (k >= count) continue;
        const Acc mask_gradient = of_mask[k];
        Acc low = Acc(0);
        Acc high = Acc(0);
        if constexpr (kPool) {
          const Acc* row = of_rows + k * plan.batch_channels + my_channel;
          low = row[0];
          if (row_end < V) high = row[1];
        }
        MaskLogit<Acc> mask[V];
        Acc lower[V];
#pragma unroll
        for (int e = 0; e < V; ++e) mask[e] = MaskLogit<Acc>(to_acc(x[u].lane[e]));
        attention.lower(mask, lower);
        Vector out;
#pragma unroll
        for (int e = 0; e < V; ++e) {
          Acc gradient;
          if constexpr (kPool) {
            gradient = e < row_end ? low : high;
          } else {
            gradient = to_acc(dz[u].lane[e]);
          }
          sum[e] += gradient * attention.factor(mask[e], lower[e]);
          out.lane[e] = from_acc<S>(attention.logit_gradient(
              mask[e], lower[e], gradient * to_acc(f.lane[e]), mask_gradient));
        }
        if (op.grad_logits != nullptr) {
          const int64_t to = (row0 + int64_t(k0 + k) * channels) * cells + at;
          store(reinterpret_cast<Vector*>(static_cast<S*>(op.grad_logits) + to), out);
        }
      }
    }
  }

  __syncthreads();  // what was staged is not needed any more
#pragma unroll
  for (int e = 0; e < V; ++e) group_sums[e * threads + thread] = sum[e];
  __syncthreads();
  if (op.grad_features != nullptr && thread < slots) {
    Vector out;
#pragma unroll
    for (int e = 0; e < V; ++e) {
      Acc total = Acc(0);
#pragma unroll 1
      for (int g = 0; g < plan.groups; ++g) {
        total += group_sums[e * threads + g * plan.width + thread];
      }
      out.lane[e] = from_acc<S>(total);
    }
    S* to = static_cast<S*>(op.grad_features) + int64_t(n) * sample;
    store(reinterpret_cast<Vector*>(to) + first_slot + thread, out);
  }
}

template <class S, bool kPool>
__global__ void FASTCAM_ATTEND_BOUNDS(S)
    attend_backward_kernel(const AttendBackward op, const AttendPlan plan) {
  if (plan.vectors) {
    attend_backward_block<S, kPool, kVectorOf<S>>(op, plan);
  } else {
    attend_backward_block<S, kPool, 1>(op, plan);
  }
}

}  // namespace fastcam
