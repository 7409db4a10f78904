// The backward of a loss whose gradients the forward has made (forward_kernel.cuh): the outer
// product dA = sum_t g alpha_t (x) grad_map_t, written once, and dD's constants times g. Nothing of
// A's size is read.
//
// A block has some rows of one sample's dA: channels, or cells where channels are last. A thread
// has a few neighbouring columns, whose factors stay in registers, and handles one row after the
// other, whose factors all lanes read at once.
#pragma once

#include "cuda/onepass/plan.h"
#include "cuda/onepass/sums.cuh"

namespace fastcam {

inline constexpr int kPassBackwardThreads = 384;

// Neighbouring columns of a thread, if all rows begin at a multiple of them.
template <class S>
inline constexpr int kPassVector = sizeof(S) == 8 ? 2 : 4;

// The factor of a pair's gradients; 0 for an invalid pair, whatever the upstream gradient.
template <class Acc>
FASTCAM_DEVICE Acc pass_scale(const CamLossBackward& op, int n, int t) {
  if ((load(op.status + int64_t(n) * op.targets + t) & kStatusValid) == 0) return Acc(0);
  const Acc grad =
      load(static_cast<const Acc*>(op.grad) + n * op.grad_stride_n + t * op.grad_stride_t);
  if (op.count == nullptr) return grad;
  const Acc count = load(static_cast<const Acc*>(op.count));
  return count > Acc(1) ? grad / count : grad;
}

// V neighbouring factors in global memory, where rows of them begin at multiples of V.
template <int V, class Acc>
FASTCAM_DEVICE Vec<Acc, V> load_lanes(const Acc* from) {
  constexpr int kPart = V < kVectorOf<Acc> ? V : kVectorOf<Acc>;
  Vec<Acc, V> result;
#pragma unroll
  for (int i = 0; i < V; i += kPart) {
    const Vec<Acc, kPart> part = load(reinterpret_cast<const Vec<Acc, kPart>*>(from + i));
#pragma unroll
    for (int e = 0; e < kPart; ++e) result.lane[i + e] = part.lane[e];
  }
  return result;
}

template <int V, int kTargets, class S, class Acc>
FASTCAM_DEVICE void write_product(S* out, int rows, int cols, const Acc* row_factor, int row_stride,
                                  const Acc* column_factor, int targets) {
  constexpr int kRows = 4;  // at once
  using Vector = Vec<S, V>;
  const int thread = int(threadIdx.x);
  const int threads = int(blockDim.x);
  const int slots = cols / V;
  const int width = slots < threads ? slots : threads;
  const int groups = threads / width;
  const int group = thread / width;
  const int slot = thread - group * width;
#pragma unroll 1
  for (int first = 0; first < slots; first += width) {
    const int column = (first + slot) * V;
    if (group >= groups || first + slot >= slots) continue;
    Acc factor[kTargets][V];
    const auto read_columns = [&](int t0) {
#pragma unroll
      for (int t = 0; t < kTargets; ++t) {
#pragma unroll
        for (int e = 0; e < V; ++e) factor[t][e] = Acc(0);
        if (t0 + t < targets) {
          const Acc* from = column_factor + (t0 + t) * int64_t(cols) + column;
          const Vec<Acc, V> f = load_lanes<V>(from);
#pragma unroll
          for (int e = 0; e < V; ++e) factor[t][e] = f.lane[e];
        }
      }
    };
    read_columns(0);
#pragma unroll 1
    for (int r0 = group; r0 < rows; r0 += kRows * groups) {
      Acc sum[kRows][V];
#pragma unroll
      for (int u = 0; u < kRows; ++u) {
#pragma unroll
        for (int e = 0; e < V; ++e) sum[u][e] = Acc(0);
      }
#pragma unroll 1
      for (int t0 = 0; t0 < targets; t0 += kTargets) {
        if (targets > kTargets) read_columns(t0);
#pragma unroll
        for (int u = 0; u < kRows; ++u) {
          const int r = r0 + u * groups < rows ? r0 + u * groups : rows - 1;
          Acc f[kTargets];
          read_factors(row_factor + r * row_stride + t0, f);
#pragma unroll
          for (int t = 0; t < kTargets; ++t) {
#pragma unroll
            for (int e = 0; e < V; ++e) sum[u][e] += f[t] * factor[t][e];
          }
        }
      }
#pragma unroll
      for (int u = 0; u < kRows; ++u) {
        const int r = r0 + u * groups;
        if (r >= rows) continue;
        Vector v;
#pragma unroll
        for (int e = 0; e < V; ++e) v.lane[e] = from_acc<S>(sum[u][e]);
        store(reinterpret_cast<Vector*>(out + int64_t(r) * cols + column), v);
      }
    }
  }
}

template <class S, int kTargets>
__global__ void __launch_bounds__(kPassBackwardThreads, (sizeof(S) == 8 || kTargets > 4 ? 1 : 2))
    cam_loss_backward_kernel(const CamLossBackward op, const PassBackwardPlan plan) {
  using Acc = AccOf<S>;
  const int thread = int(threadIdx.x);
  const int threads = int(blockDim.x);
  const int all = int(op.targets);
  const int channels = int(op.channels);
  const int n = int(blockIdx.x) / plan.splits;
  const int split = int(blockIdx.x) - n * plan.splits;
  const int rows = op.channels_last ? int(op.cells) : channels;
  const int cols = op.channels_last ? channels : int(op.cells);
  const Acc* alpha = static_cast<const Acc*>(op.alpha) + int64_t(n) * all * channels;
  const Acc* grad_map = static_cast<const Acc*>(op.grad_map) + int64_t(n) * all * op.cells;

  if (op.scaled_gradients != nullptr) {
    const int64_t base = int64_t(n) * all * channels;
    const int each = (channels + plan.splits - 1) / plan.splits;
    const int begin = split * each;
    const int here = channels - begin < each ? channels - begin : each;
#pragma unroll 1
    for (int t = 0; t < all; ++t) {
      const Acc scale = pass_scale<Acc>(op, n, t);
      const int64_t row = base + int64_t(t) * channels + begin;
#pragma unroll 1
      for (int c = thread; c < here; c += threads) {
        store(static_cast<Acc*>(op.scaled_gradients) + row + c,
              scale * load(static_cast<const Acc*>(op.grad_gradients) + row + c));
      }
    }
  }

  if (op.grad_activations != nullptr) {
    const int begin = split * plan.rows;
    const int here = rows - begin < plan.rows ? rows - begin : plan.rows;
    Acc* row_factor = static_cast<Acc*>(shared_memory());  // [rows of the block, stride]
    const int stride = (all + kTargets - 1) / kTargets * kTargets;
    const Acc* from = op.channels_last ? grad_map : alpha;
#pragma unroll 1
    for (int t = 0; t < stride; ++t) {
      const Acc scale = t < all ? pass_scale<Acc>(op, n, t) : Acc(0);
#pragma unroll 1
      for (int r = thread; r < here; r += threads) {
        row_factor[r * stride + t] =
            t < all ? scale * load(from + int64_t(t) * rows + begin + r) : Acc(0);
      }
    }
    __syncthreads();
    S* out = static_cast<S*>(op.grad_activations) + (int64_t(n) * rows + begin) * cols;
    const Acc* column_factor = op.channels_last ? alpha : grad_map;
    constexpr int kVector = kPassVector<S>;
    if (plan.vector == kVector) {
      write_product<kVector, kTargets>(out, here, cols, row_factor, stride, column_factor, all);
    } else {
      write_product<1, kTargets>(out, here, cols, row_factor, stride, column_factor, all);
    }
  }
}

}  // namespace fastcam
