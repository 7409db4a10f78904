// Grad-CAM forward in one launch: channel weights, map, peak, and whatever the finish policy makes
// of the map (the normalised map itself, or a loss with its gradient).
//
// A block takes some channels of one sample for up to kTargets targets:
//   1. alpha[t, c] = sum_q D[t, c, q] / P          into shared memory and out
//   2. part[t, p]  = sum_c alpha[t, c] A[c, p]     each element of A read once
//   3. with several blocks a sample: leave the part in the workspace; the last block adds them up
//   4. finish: normalise, loss, gradient with respect to the map
#pragma once

#include "cuda/cam/finish.cuh"
#include "cuda/cam/matrix.cuh"
#include "cuda/cam/plan.h"

namespace fastcam {

struct ForwardWork {
  CamPlan plan;
  bool gradients_in_acc;  // D has the arithmetic dtype, A has not
  unsigned* tickets;      // [N, target blocks] zeros
  void* parts;            // [N, target blocks, splits, kTargets, P] acc
};

// Vectors in flight of one thread.
template <int kTargets>
inline constexpr int kColumnUnroll = kTargets == 1 ? 4 : 2;
template <int kTargets>
inline constexpr int kRowUnroll = kTargets == 1 ? 2 : 1;

// Two blocks of the largest size fit on a multiprocessor: at most 80 registers a thread for one
// target in float, 168 otherwise.
#define FASTCAM_BOUNDS(S, kTargets) __launch_bounds__((kMaxThreads<AccOf<S>, kTargets>), 2)

template <class S, int kTargets>
int forward_scratch(int threads) {
  constexpr int kVector = kVectorOf<S>;
  return std::max({column_sums_scratch<kVector>(threads),
                   row_sums_scratch<kVector, kTargets, kRowUnroll<kTargets>>(threads),
                   row_sums_scratch<kVector, 1, kRowUnroll<1>>(threads)});
}

// Rows are what the last axis lies in: channels x cells, or cells x channels. `count` channels from
// `channel` on. One channel or one cell is the same either way, and then reads as one long row.
template <class S>
FASTCAM_DEVICE Matrix<S> channel_block(S* sample, bool channels_last, int channels, int cells,
                                       int channel, int count) {
  if (channels_last) {
    return {sample + channel, cells, count, count == channels || cells == 1 ? count : channels};
  }
  return {sample + int64_t(channel) * cells, count, cells, cells};
}

// column_sums() or row_sums() of a matrix, in vectors where it allows them.
template <int kTargets, class S, class Acc>
FASTCAM_DEVICE void sums_of(const Matrix<const S>& m, bool of_columns,
                            const Factors<const Acc>& weight, const Factors<Acc>& to,
                            Acc* scratch) {
  constexpr int kVector = kVectorOf<S>;
  if (walks_in_vectors<kVector>(m)) {
    if (of_columns) {
      column_sums<kVector, kTargets, kColumnUnroll<kTargets>>(m, weight, to, scratch);
    } else {
      row_sums<kVector, kTargets, kRowUnroll<kTargets>>(m, weight, to, scratch);
    }
  } else {
    if (of_columns) {
      column_sums<1, kTargets, kColumnUnroll<kTargets>>(m, weight, to, scratch);
    } else {
      row_sums<1, kTargets, kRowUnroll<kTargets>>(m, weight, to, scratch);
    }
  }
}

// sum_q D[c, q] of one target.
template <class SD, class Acc>
FASTCAM_DEVICE void gradient_sums_of(const CamInputs& in, int64_t n, int t, int channel, int count,
                                     Acc* to, Acc* scratch) {
  const SD* sample =
      static_cast<const SD*>(in.gradients) + n * in.gradients_stride_n + t * in.gradients_stride_t;
  const bool channels_last = in.gradients_channels_last || in.grad_cells == 1;
  const Matrix<const SD> d =
      channel_block(sample, channels_last, int(in.channels), int(in.grad_cells), channel, count);
  const Factors<const Acc> one{nullptr, 0, 1};
  const Factors<Acc> sums{to, 0, 1};
  sums_of<1>(d, channels_last, one, sums, scratch);
}

template <class S, class Acc>
FASTCAM_DEVICE void gradient_sums(const CamInputs& in, bool in_acc, int64_t n, int t, int channel,
                                  int count, Acc* to, Acc* scratch) {
  if constexpr (!std::is_same_v<S, Acc>) {
    if (in_acc) {
      gradient_sums_of<Acc>(in, n, t, channel, count, to, scratch);
    } else {
      gradient_sums_of<S>(in, n, t, channel, count, to, scratch);
    }
  } else {
    gradient_sums_of<S>(in, n, t, channel, count, to, scratch);
  }
}

// to[t, p] = sum_c alpha[t, c] A[c, p] over the block's channels.
template <class S, int kTargets, class Acc>
FASTCAM_DEVICE void map_part(const CamInputs& in, int64_t n, int channel, int count,
                             const Acc* alpha, int chunk, const Factors<Acc>& to, Acc* scratch) {
  const S* sample = static_cast<const S*>(in.activations) + n * in.activations_stride_n;
  // Without channels: no rows, the map is zero.
  const bool channels_last = count > 0 && (in.activations_channels_last || in.cells == 1);
  const Matrix<const S> a =
      channel_block(sample, channels_last, int(in.channels), int(in.cells), channel, count);
  const Factors<const Acc> weight{alpha, chunk, kTargets};
  sums_of<kTargets>(a, !channels_last, weight, to, scratch);
}

template <class S, int kTargets, class Finish>
__global__ void FASTCAM_BOUNDS(S, kTargets)
    cam_forward_kernel(const typename Finish::Params op, const ForwardWork work) {
  using Acc = AccOf<S>;
  const CamInputs& in = op.in;
  const CamPlan& plan = work.plan;
  const int thread = int(threadIdx.x);
  const int threads = int(blockDim.x);
  const int cells = int(in.cells);

  // blockIdx: splits fastest, so that the blocks of a sample run together.
  // 32 bits each: they occupy registers for the whole kernel.
  const int split = int(blockIdx.x) % plan.splits;
  const int group = int(blockIdx.x) / plan.splits;  // of one sample and one target block
  const int n = group / plan.target_blocks;
  const int t0 = (group - n * plan.target_blocks) * kTargets;
  const int targets = in.targets - t0 < kTargets ? int(in.targets) - t0 : kTargets;
  const int channel = split * plan.chunk;
  const int count = in.channels - channel < plan.chunk ? int(in.channels) - channel : plan.chunk;
  const auto pair_of = [&](int t) { return int64_t(n) * in.targets + t0 + t; };
  const auto alpha_of = [&](int t) {
    return static_cast<Acc*>(op.alpha) + pair_of(t) * in.channels;
  };

  char* shared = static_cast<char*>(shared_memory());
  unsigned* flag = reinterpret_cast<unsigned*>(shared + kReduceBytes);
  Acc* scratch = reinterpret_cast<Acc*>(shared + kReservedBytes);
  Acc* alpha = scratch + plan.scratch_values;       // [kTargets, chunk]
  Acc* shared_map = alpha + kTargets * plan.chunk;  // [kTargets, P] if it fits
  const FinishScratch<Acc> finish_scratch{shared, scratch, plan.scratch_values};

  unsigned on = 0;  // bit t: the pair (n, t0 + t) is wanted
#pragma unroll 1
  for (int t = 0; t < targets; ++t) on |= Finish::on(op, n, t0 + t) ? 1u << t : 0u;

  // 1. channel weights
#pragma unroll 1
  for (int t = 0; t < kTargets; ++t) {
    const bool made = (on >> t & 1) != 0 && in.grad_cells > 0 && count > 0;
    Acc* row = alpha + t * plan.chunk;
    if (made) gradient_sums<S>(in, work.gradients_in_acc, n, t0 + t, channel, count, row, scratch);
    __syncthreads();
#pragma unroll 1
    for (int c = thread; c < count; c += threads) {
      const Acc weight = made ? row[c] / Acc(cells) : Acc(0);
      row[c] = weight;
      if (t < targets) store(alpha_of(t) + channel + c, weight);
    }
  }
  __syncthreads();

  // 2. the map, or this block's part of it
  const Factors<Acc> map{plan.map_shared ? shared_map : Finish::map_of(op, pair_of(0)), cells,
                         targets};
  const int64_t part_values = int64_t(kTargets) * cells;
  Acc* parts = static_cast<Acc*>(work.parts) + int64_t(group) * plan.splits * part_values;
  bool last = true;
  if (on != 0) {
    const Factors<Acc> to =
        plan.splits > 1 ? Factors<Acc>{parts + split * part_values, cells, targets} : map;
    map_part<S, kTargets>(in, n, channel, count, alpha, plan.chunk, to, scratch);
    // 3. all parts of it
    if (plan.splits > 1) {
      last = last_block(work.tickets + group, unsigned(plan.splits), flag);
      if (last) {
#pragma unroll 1
        for (int t = 0; t < targets; ++t) {
#pragma unroll 1
          for (int p = thread; p < cells; p += threads) {
            Acc sum = Acc(0);
#pragma unroll 4
            for (int s = 0; s < plan.splits; ++s) {
              sum += load_fresh(parts + s * part_values + t * int64_t(cells) + p);
            }
            store_own(map.of(t) + p, sum);
          }
        }
      }
    }
    __syncthreads();
  } else {
    last = split == 0;
  }

  // 4. the rest is the policy's
  if (last) {
#pragma unroll 1
    for (int t = 0; t < targets; ++t) {
      if ((on >> t & 1) == 0) {
        Finish::skip(op, pair_of(t));
      } else if (!Finish::finish(op, {n, t0 + t, pair_of(t), map.of(t)}, finish_scratch)) {
        // No region: the channel weights that are already out count as those of a pair that is off.
#pragma unroll 1
        for (int c = thread; c < int(in.channels); c += threads) store(alpha_of(t) + c, Acc(0));
      }
    }
  }
}

}  // namespace fastcam
