// Grad-CAM forward in one launch: channel weights, map, peak, and whatever the finish policy makes
// of the map (the normalised map itself, or a loss with its gradient).
//
// A block takes some channels of one sample for up to kTargets targets:
//   1. alpha[t, c] = sum_q D[t, c, q] / P          into shared memory and out
//   2. part[t, p]  = sum_c alpha[t, c] A[c, p]     each element of A read once
//   3. with several blocks a sample: leave the part in the workspace; the last block adds them up
//   4. finish: normalise, loss, gradient with respect to the map
//   5. the last block of the launch: mean and count, if they are asked for
#pragma once

#include "cuda/cam/finish.cuh"
#include "cuda/cam/matrix.cuh"

namespace fastcam {

struct ForwardWork {
  CamPlan plan;
  bool gradients_in_acc;  // D has the arithmetic dtype, A has not
  unsigned* tickets;      // zeros: one for each sample and target block, if blocks share a sample
  unsigned* finished;     // one more, if several samples or target blocks are reduced
  void* parts;            // [N, target blocks, splits, kTargets, P] acc
};

// Rows are what the last axis lies in: channels x cells, or cells x channels. `count` channels from
// `channel` on. One cell is a row of channels.
template <class S>
FASTCAM_DEVICE Matrix<S> channel_block(S* sample, bool channels_last, int channels, int cells,
                                       int channel, int count) {
  if (channels_last) return {sample + channel, cells, count, channels};
  return {sample + int64_t(channel) * cells, count, cells, cells};
}

// put(c, sum_q D[c, q]) for one target.
template <class SD, class Acc, class Put>
FASTCAM_DEVICE void gradient_sums(const CamInputs& in, int64_t n, int t, int channel, int count,
                                  Acc* scratch, const Put& put) {
  const SD* sample = in.gradients.of<SD>(n, t);
  const bool channels_last = in.gradients_channels_last || in.grad_cells == 1;
  sums_of<1>(
      channel_block(sample, channels_last, int(in.channels), int(in.grad_cells), channel, count),
      channels_last, Factors<const Acc>{nullptr, 0, 1}, 1, scratch,
      [&](int, int c, Acc sum) { put(c, sum); });
}

template <class S, int kTargets, class Finish>
__global__ void __launch_bounds__(kCamThreads, FASTCAM_CAM_BLOCKS(AccOf<S>, kTargets))
    cam_forward_kernel(const typename Finish::Params op, const ForwardWork work) {
  using Acc = AccOf<S>;
  const CamInputs& in = Finish::inputs(op);
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
  const auto alpha_of = [&](int t) { return Finish::alpha(op) + pair_of(t) * in.channels; };

  char* shared = static_cast<char*>(shared_memory());
  unsigned* flag = reinterpret_cast<unsigned*>(shared + kReduceBytes);
  Acc* scratch = reinterpret_cast<Acc*>(shared + kReservedBytes);
  const Factors<Acc> alpha{scratch + plan.scratch_values, plan.alpha_stride, kTargets};
  Acc* map = plan.map_shared ? alpha.of(kTargets) : Finish::map_of(op, pair_of(0));  // [targets, P]
  const FinishScratch<Acc> finish_scratch{shared, scratch, plan.scratch_values};

  unsigned on = 0;  // bit t: the pair (n, t0 + t) is wanted
#pragma unroll 1
  for (int t = 0; t < targets; ++t) on |= Finish::on(op, n, t0 + t) ? 1u << t : 0u;

  // 1. channel weights
  fill_factors(alpha, 0, [](int, int) { return Acc(0); });
  __syncthreads();
#pragma unroll 1
  for (int t = 0; t < targets; ++t) {
    Acc* out = alpha_of(t) + channel;
    const auto put = [&](int c, Acc sum) {
      const Acc weight = sum / Acc(cells);
      alpha.of(t)[c] = weight;
      store(out + c, weight);
    };
    if ((on >> t & 1) == 0 || count == 0) {
#pragma unroll 1
      for (int c = thread; c < count; c += threads) store(out + c, Acc(0));
    } else if (std::is_same_v<S, Acc> || !work.gradients_in_acc) {
      gradient_sums<S>(in, n, t0 + t, channel, count, scratch, put);
    } else {
      gradient_sums<Acc>(in, n, t0 + t, channel, count, scratch, put);
    }
  }

  // 2. the map, or this block's part of it
  const int64_t part_values = int64_t(kTargets) * cells;
  Acc* parts = static_cast<Acc*>(work.parts) + int64_t(group) * plan.splits * part_values;
  bool last = true;
  if (on != 0) {
    Acc* to = plan.splits > 1 ? parts + split * part_values : map;
    // Without channels: no rows, the map is zero.
    const bool channels_last = count > 0 && (in.activations_channels_last || cells == 1);
    const S* sample = static_cast<const S*>(in.activations) + n * in.activations_stride_n;
    sums_of<kTargets>(channel_block(sample, channels_last, int(in.channels), cells, channel, count),
                      !channels_last, Factors<const Acc>{alpha.data, alpha.stride, kTargets},
                      targets, scratch,
                      [&](int t, int p, Acc sum) { store_own(to + t * int64_t(cells) + p, sum); });
    // 3. all parts of it
    if (plan.splits > 1) {
      last = last_block(work.tickets + group, unsigned(plan.splits), flag);
      if (last) {
#pragma unroll 1
        for (int64_t i = thread; i < int64_t(targets) * cells; i += threads) {
          Acc sum = Acc(0);
#pragma unroll 4
          for (int s = 0; s < plan.splits; ++s) sum += load_fresh(parts + s * part_values + i);
          store_own(map + i, sum);
        }
        __syncthreads();
      }
    }
  } else {
    last = split == 0;
  }
  if (!last) return;

  // 4. the rest is the policy's
#pragma unroll 1
  for (int t = 0; t < targets; ++t) {
    if ((on >> t & 1) == 0) {
      Finish::skip(op, pair_of(t));
    } else if (!Finish::finish(op, {n, t0 + t, pair_of(t), map + t * int64_t(cells)},
                               finish_scratch)) {
      // No region: the channel weights that are already out count as those of a pair that is off.
#pragma unroll 1
      for (int c = thread; c < int(in.channels); c += threads) store(alpha_of(t) + c, Acc(0));
    }
  }

  // 5. mean and count
  if (Finish::reduces(op)) {
    const unsigned groups = unsigned(in.batch) * unsigned(plan.target_blocks);
    if (work.finished == nullptr) __syncthreads();  // what thread 0 has stored of the last pair
    if (work.finished == nullptr || last_block(work.finished, groups, flag)) {
      Finish::reduce(op, shared);
    }
  }
}

}  // namespace fastcam
