// How a launch of Grad-CAM's kernels (cuda/cam/) is cut into blocks. Plain C++ without torch and
// without CUDA: the tests read it, too.
#pragma once

#include "cuda/plan.h"

namespace fastcam {

// Targets that share one read of the activations.
inline constexpr int kTargetsPerBlock = 4;
// Threads of a block, and blocks that a multiprocessor shall hold.
inline constexpr int kCamThreads = 256;
template <class Acc, int kTargets>
inline constexpr int kCamBlocks = (sizeof(Acc) == 4 ? 2 : 1) + (kTargets == 1 ? 1 : 0);
// Channels of a forward's block: their weights for kTargets targets take 4 KiB of shared memory.
template <class Acc, int kTargets>
inline constexpr int kMaxChunk = 4096 / (kTargets * int(sizeof(Acc)));
// A block's part of a matrix has so many values, and is indexed with 32 bits.
inline constexpr int64_t kMaxElements = int64_t(1) << 25;
// Of kSharedBytes, a block's reductions and flags.
inline constexpr int kReduceBytes = 1024;
inline constexpr int kReservedBytes = kReduceBytes + 16;

// A launch over N samples x target blocks x channel blocks.
struct CamPlan {
  int threads;
  int splits;  // channel blocks of a sample
  int chunk;   // channels of each but the last
  int64_t blocks;
  int scratch_values;  // Acc values that column_sums() needs, first in shared memory
  int alpha_stride;    // from the channel weights of one target to the next
  int shared_bytes;

  // forward
  int target_blocks;
  bool map_shared;      // P values a target fit into shared memory
  int64_t parts_bytes;  // what blocks of a sample leave for the last one

  // backward, where a block has all targets of its channels
  int held;  // targets at a time; a multiple of kTargets
  int tile;  // cells at a time
  int map_stride;
};

// What a plan is made from, forward and backward.
struct CamShape {
  int64_t batch, targets, channels, cells, grad_cells;
  int element;  // bytes of a value of A
  int grad_element;
  int acc;  // bytes of an arithmetic value
  bool channels_last;
  int per_block;  // kTargets
  int max_chunk;
  int multiprocessors;
};

// From the factors of one target to the next: whole runs of 16, and a zero at least behind them.
inline int64_t factor_stride(int64_t count) { return (count / 16 + 1) * 16; }

// Most of a block's threads shall have a place in a fold (matrix.cuh).
inline int plan_threads(const CamShape& s, int64_t chunk) {
  const int64_t cols = std::max<int64_t>(1, s.channels_last ? chunk : s.cells);
  const int64_t places =
      std::max<int64_t>(1, cols / std::min<int64_t>(cols & -cols, kVectorBytes / s.element));
  int chosen = kCamThreads;
  int64_t best = 0;
  for (int threads = kCamThreads; threads >= 128; threads -= 32) {
    const int64_t busy =
        places < threads ? threads / places * places : ceil_div(places, ceil_div(places, threads));
    if (100 * busy / threads > best + 5) {
      best = 100 * busy / threads;
      chosen = threads;
    }
  }
  return chosen;
}

// Channels of a block. `wanted` blocks a sample fill the GPU, `affordable` of them keep the extra
// traffic small.
inline void split_channels(const CamShape& s, int64_t wanted, int64_t affordable, CamPlan* plan) {
  const int64_t granule = kSectorBytes / s.element;  // whole sectors and folds in either layout
  // Below 8 KiB of A a block has too little to do.
  const int64_t useful = ceil_div(s.channels * s.cells * s.element, 8192);
  int64_t splits = std::max<int64_t>(1, std::min({wanted, affordable, useful}));
  int64_t largest = std::min<int64_t>(s.max_chunk, kMaxElements / std::max(s.cells, s.grad_cells));
  const int64_t bytes = s.channels * std::max(s.cells * s.element, s.grad_cells * s.grad_element);
  if (bytes > UINT32_MAX) throw std::runtime_error("fastcam: a sample of more than 4 GiB");
  if (largest < 1) throw std::runtime_error("fastcam: a map of more than 2^25 cells");
  if (largest >= granule) largest = largest / granule * granule;
  splits = std::max(splits, ceil_div(s.channels, largest));
  int64_t chunk = ceil_div(std::max<int64_t>(1, s.channels), splits);
  if (splits > 1) chunk = std::min(round_up(chunk, granule), largest);
  plan->chunk = int(chunk);
  plan->splits = int(std::max<int64_t>(1, ceil_div(s.channels, chunk)));
  plan->alpha_stride = int(factor_stride(chunk));
  plan->threads = plan_threads(s, chunk);
  plan->scratch_values = plan->threads * (kVectorBytes / s.element);
}

// Bytes of A and D that a forward must read.
inline int64_t forward_bytes(const CamShape& s) {
  return s.channels * s.cells * s.element + s.targets * s.channels * s.grad_cells * s.grad_element;
}

// Forward: a block makes the channel weights of its channels and their part of the map; if a sample
// has several blocks, each leaves its part in the workspace and the last to finish adds them up.
inline CamPlan plan_forward(const CamShape& s) {
  CamPlan plan{};
  plan.target_blocks = int(ceil_div(s.targets, s.per_block));
  const int64_t groups = s.batch * plan.target_blocks;
  // Parts are written and read once more: at most 4 % of what has to be read anyway.
  const int64_t part = 2 * s.targets * s.cells * s.acc;
  split_channels(s, ceil_div(2 * s.multiprocessors, groups), forward_bytes(s) / (25 * part), &plan);
  plan.blocks = groups * plan.splits;
  const int64_t values = plan.scratch_values + s.per_block * plan.alpha_stride;
  const int64_t fixed = kReservedBytes + values * s.acc;
  const int64_t map = int64_t(s.acc) * s.per_block * s.cells;
  plan.map_shared = fixed + map <= kSharedBytes;
  plan.shared_bytes = int(fixed + (plan.map_shared ? map : 0));
  if (plan.splits > 1) plan.parts_bytes = plan.blocks * map;
  return plan;
}

// Backward: a block makes the map's gradient of all targets, from it the sums over its channels of
// A, and writes these channels' gradient.
inline CamPlan plan_backward(const CamShape& s, bool need_activations, bool need_gradients) {
  if (s.targets < 1 || !(need_activations || need_gradients)) {
    throw std::runtime_error("fastcam: a backward without targets or without gradients");
  }
  CamPlan plan{};
  // Every block reads the maps, from memory or a cache: at most 2.5 % of the rest each time. Of
  // several targets they come from a cache, mostly, so that 32 channels a block are enough.
  const int64_t moved = 2 * s.channels * s.cells * s.element;  // whatever is needed: so are results
  const int64_t maps = 2 * s.targets * s.cells * s.acc;
  const int64_t affordable =
      std::max(moved / (40 * maps), s.targets > 1 ? s.channels / 32 : int64_t(1));
  // Small blocks, several of which share a multiprocessor and hide each other's latency.
  const int64_t wanted = std::max(ceil_div(6 * s.multiprocessors, s.batch),
                                  s.channels * s.cells * s.element / (48 * 1024));
  split_channels(s, wanted, affordable, &plan);
  plan.blocks = s.batch * plan.splits;
  if (!s.channels_last) plan.scratch_values = 0;
  // For each target: a sum and a peak; and as far as there is room, factors of the channels and of
  // a tile of cells.
  const int64_t room = kSharedBytes / s.acc - plan.scratch_values - 2 * s.targets;
  const int64_t all = round_up(s.targets, s.per_block);
  const int64_t tile = (room / all - plan.alpha_stride) / 16 * 16 - 1;
  plan.tile = int(std::min(s.cells, std::max<int64_t>(31, tile)));
  plan.map_stride = int(factor_stride(plan.tile));
  const int64_t each = plan.alpha_stride + plan.map_stride;
  plan.held = int(std::min(all, room / each / s.per_block * s.per_block));
  if (plan.held < 1) throw std::runtime_error("fastcam: a backward of too many targets");
  plan.shared_bytes = int((plan.scratch_values + 2 * s.targets + plan.held * each) * s.acc);
  return plan;
}

}  // namespace fastcam
