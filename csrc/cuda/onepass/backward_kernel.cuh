// The backward of a loss whose gradients the forward has made (forward_kernel.cuh): the outer
// product dA = sum_t g alpha_t (x) grad_map_t, written once, and dD's constants times g. Nothing of
// A's size is read.
//
// A block has some rows of one sample's dA: channels, or cells where channels are last. A thread
// has a few neighbouring columns, whose factors stay in registers, and handles one row after the
// other, whose factors all lanes read at once.
#pragma once

#include "common/pairs.h"
#include "cuda/onepass/plan.h"
#include "cuda/onepass/sums.cuh"

namespace fastcam {

inline constexpr int kPassBackwardThreads = 256;

// Neighbouring columns of a thread, if all rows begin at a multiple of them.
template <class S>
inline constexpr int kPassVector = sizeof(S) == 8 ? 2 : 4;

// pair_scale() of a pair; all that it takes is asked for at once.
template <class Acc>
FASTCAM_DEVICE Acc load_scale(const CamLossBackward& op, int n, int t) {
  const uint8_t status = load(op.status + int64_t(n) * op.targets + t);
  const Acc grad = load(op.grad.of<Acc>(n, t));
  const Acc count = op.count == nullptr ? Acc(1) : load(static_cast<const Acc*>(op.count));
  return pair_scale(status, grad, count);
}

// A thread has V neighbouring columns and writes one row after the other. The first columns'
// factors are asked for before the block's barrier, behind which `row_factor` and `scale` (shared)
// are there.
template <int V, int kTargets, class S, class Acc>
FASTCAM_DEVICE void write_product(S* out, int rows, int cols, const Acc* row_factor, int row_stride,
                                  const Acc* column_factor, const Acc* scale, int targets) {
  constexpr int kRows = kTargets > 4 ? 2 : 4;  // at once
  constexpr bool kOnce = pass_once(kTargets);
  const int last = kOnce ? 1 : targets;
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
    const bool active = group < groups && first + slot < slots;
    Acc factor[kTargets][V];
    const auto read_columns = [&](int t0) {
#pragma unroll
      for (int t = 0; t < kTargets; ++t) {
#pragma unroll
        for (int e = 0; e < V; ++e) factor[t][e] = Acc(0);
        if (active && t0 + t < targets) {
          const Acc* from = column_factor + (t0 + t) * int64_t(cols) + column;
          read_run(from, factor[t], [](const auto* vector) { return load(vector); });
        }
      }
    };
    const auto scale_columns = [&](int t0) {
#pragma unroll
      for (int t = 0; t < kTargets; ++t) {
#pragma unroll
        for (int e = 0; e < V; ++e) factor[t][e] *= scale[t0 + t];
      }
    };
    read_columns(0);
    if (first == 0) __syncthreads();
    scale_columns(0);
    const int end = active ? rows : 0;
#pragma unroll 1
    for (int r0 = group; r0 < end; r0 += kRows * groups) {
      Acc sum[kRows][V];
#pragma unroll
      for (int u = 0; u < kRows; ++u) {
#pragma unroll
        for (int e = 0; e < V; ++e) sum[u][e] = Acc(0);
      }
#pragma unroll 1
      for (int t0 = 0; t0 < last; t0 += kTargets) {
        if (!kOnce && targets > kTargets) {
          read_columns(t0);
          scale_columns(t0);
        }
#pragma unroll
        for (int u = 0; u < kRows; ++u) {
          const int r = r0 + u * groups < rows ? r0 + u * groups : rows - 1;
          Acc f[kTargets];
          read_run(row_factor + r * row_stride + t0, f);
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

// The same for one target, where rows do not begin at multiples of a vector but blocks of rows do:
// thread after thread writes a vector, which may begin in one row and end in the next. The column
// factors lie in shared memory kShifts times, each time one value further on, so that there is an
// aligned vector of them from any column on.
template <class Acc>
inline constexpr int kShifts = kVectorOf<Acc>;

template <class S, class Acc>
FASTCAM_DEVICE void write_flat_product(S* out, int rows, int cols, const Acc* row_factor,
                                       const Acc* column_factor, int column_stride, Acc scale) {
  constexpr int V = kVectorOf<S>;
  using Vector = Vec<S, V>;
  const int threads = int(blockDim.x);
  const int vectors = int(int64_t(rows) * cols / V);
  const int row_step = threads * V / cols;
  const int column_step = threads * V - row_step * cols;
  int row = int(threadIdx.x) * V / cols;
  int column = int(threadIdx.x) * V - row * cols;
#pragma unroll 2
  for (int i = int(threadIdx.x); i < vectors; i += threads) {
    Acc f[V];
    const int shift = (kShifts<Acc> - column % kShifts<Acc>) % kShifts<Acc>;
    read_run(column_factor + shift * column_stride + column + shift, f);
    const Acc here = scale * row_factor[row];
    const Acc next = scale * row_factor[row + 1 < rows ? row + 1 : row];
    Vector v;
#pragma unroll
    for (int e = 0; e < V; ++e) v.lane[e] = from_acc<S>((column + e < cols ? here : next) * f[e]);
    store(reinterpret_cast<Vector*>(out) + i, v);
    row += row_step;
    column += column_step;
    if (column >= cols) {
      column -= cols;
      ++row;
    }
  }
}

// Blocks of the largest size that fit on a multiprocessor. (Sixteen targets of 16-bit values need a
// few registers more than two blocks leave.)
template <class S, int kTargets>
inline constexpr int pass_backward_blocks =
    sizeof(S) == 8 || ((sizeof(S) == 2 || kMoreRegisters) && kTargets > 4) ? 1
                                                                           : (kTargets > 4 ? 2 : 4);

template <class S, int kTargets>
__global__ void __launch_bounds__(kPassBackwardThreads, (pass_backward_blocks<S, kTargets>))
    cam_loss_backward_kernel(const CamLossBackward op, const PassBackwardPlan plan) {
  using Acc = AccOf<S>;
  const int thread = int(threadIdx.x);
  const int threads = int(blockDim.x);
  const int all = kTargets == 1 ? 1 : int(op.targets);
  const int channels = int(op.channels);
  const int n = int(blockIdx.x) / plan.splits;
  const int split = int(blockIdx.x) - n * plan.splits;
  const int rows = op.channels_last ? int(op.cells) : channels;
  const int cols = op.channels_last ? channels : int(op.cells);
  const int begin = split * plan.rows;
  const int here = rows - begin < plan.rows ? rows - begin : plan.rows;
  const Acc* alpha = static_cast<const Acc*>(op.alpha) + int64_t(n) * all * channels;
  const Acc* grad_map = static_cast<const Acc*>(op.grad_map) + int64_t(n) * all * op.cells;
  const Acc* row_factors = (op.channels_last ? grad_map : alpha) + begin;
  const Acc* column_factors = op.channels_last ? alpha : grad_map;

  const int stride = pass_once(kTargets) ? kTargets : ceil_div(all, kTargets) * kTargets;
  Acc* scale = static_cast<Acc*>(shared_memory());  // [stride]
  Acc* row_factor = scale + pass_scales(stride);    // [rows of the block, stride]
  Acc* column_factor = row_factor + round_up(plan.rows * stride, 4);

  // No load waits for another: everything is asked for before the first barrier.
  const int each = ceil_div(channels, plan.splits);
  const int first = split * each;
  const int count = channels - first < each ? channels - first : each;
  const int64_t constants = int64_t(n) * all * channels + first;  // where they begin
  Acc own_constant = Acc(0);
  if (kTargets == 1 && op.scaled_gradients != nullptr && thread < count) {
    own_constant = load(static_cast<const Acc*>(op.grad_gradients) + constants + thread);
  }
#pragma unroll 1
  for (int t = thread; t < stride; t += threads) {
    scale[t] = t < all ? load_scale<Acc>(op, n, t) : Acc(0);
  }
  const bool flat = kTargets == 1 && plan.column_stride > 0;
  if (op.grad_activations != nullptr) {
#pragma unroll 4
    for (int i = thread; i < here * stride; i += threads) {
      const int t = kTargets == 1 ? 0 : i / here;
      const int r = i - t * here;
      row_factor[r * stride + t] = t < all ? load(row_factors + int64_t(t) * rows + r) : Acc(0);
    }
    if (flat) {
#pragma unroll 2
      for (int c = thread; c < cols + kVectorOf<S> - 1; c += threads) {
        const Acc f = load(column_factors + (c < cols ? c : c - cols));
#pragma unroll
        for (int shift = 0; shift < kShifts<Acc>; ++shift) {
          column_factor[shift * plan.column_stride + c + shift] = f;
        }
      }
    }
    S* out = static_cast<S*>(op.grad_activations) + (int64_t(n) * rows + begin) * cols;
    constexpr int kVector = kPassVector<S>;
    if (flat) {
      __syncthreads();
      write_flat_product(out, here, cols, row_factor, column_factor, plan.column_stride, scale[0]);
    } else if (plan.vector == kVector) {
      write_product<kVector, kTargets>(out, here, cols, row_factor, stride, column_factors, scale,
                                       all);
    } else {
      write_product<1, kTargets>(out, here, cols, row_factor, stride, column_factors, scale, all);
    }
  } else {
    __syncthreads();
  }
  if (op.scaled_gradients == nullptr) return;
  const Acc* from_constant = static_cast<const Acc*>(op.grad_gradients) + constants;
  Acc* to_constant = static_cast<Acc*>(op.scaled_gradients) + constants;
#pragma unroll 1
  for (int c = thread; c < count; c += threads) {
    if (kTargets == 1 && c == thread) {
      store(to_constant + c, scale[0] * own_constant);
      continue;
    }
#pragma unroll 4
    for (int t = 0; t < all; ++t) {
      store(to_constant + int64_t(t) * channels + c,
            scale[t] * load(from_constant + int64_t(t) * channels + c));
    }
  }
}

}  // namespace fastcam
