// How a launch is cut into blocks. Plain C++ without torch and without CUDA: the tests read it,
// too.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>

#include "common/params.h"

namespace fastcam {

// Targets that share one read of the activations.
inline constexpr int kTargetsPerBlock = 4;
// A block's part of a matrix is indexed with 32 bits, with room for the largest period
// (matrix.cuh).
inline constexpr int64_t kMaxElements = int64_t(1) << 25;
// Shared memory of a block that no device attribute has to be set for.
inline constexpr int kSharedBytes = 48 * 1024;
// Of these, a block's reductions and flags.
inline constexpr int kReduceBytes = 1024;
inline constexpr int kReservedBytes = kReduceBytes + 16;

template <class Acc, int kTargets>
inline constexpr int kMaxThreads = kTargets == 1 && sizeof(Acc) == 4 ? 384 : 192;
// Channels of a block: its channel weights for kTargets targets take 4 KiB of shared memory.
template <class Acc, int kTargets>
inline constexpr int kMaxChunk = 4096 / (kTargets * int(sizeof(Acc)));

struct CamPlan {
  int threads;
  int target_blocks;  // of kTargets each
  int splits;         // channel blocks of a sample
  int chunk;          // channels of each but the last
  int64_t blocks;
  bool map_shared;     // P values a target fit into shared memory
  bool many_shared;    // backward: so do P + chunk values for each of more targets than kTargets
  int scratch_values;  // Acc values the primitives need
  int shared_bytes;
  int64_t tickets_bytes;  // of the workspace, zeroed before the launch; first in it
  int64_t workspace_bytes;
};

// What a plan is made from, whatever the op.
struct PlanShape {
  int64_t batch, targets, channels, cells, grad_cells;
  int element;  // bytes of a value of A
  int grad_element;
  int acc;  // bytes of an arithmetic value
  bool channels_last;
  int per_block;  // kTargets
  int max_threads;
  int max_chunk;
  int multiprocessors;
};

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Threads of a block, so that most of them have a slot in a period of `period` vectors. Small
// blocks are preferred, several of which share a multiprocessor and hide each other's latency,
// unless there are too few blocks for that.
inline int plan_threads(int64_t period, int max_threads, bool few_blocks) {
  const auto busy = [&](int threads) {  // of 1024 resident threads
    const int64_t slots = period >= threads
                              ? period * threads / (ceil_div(period, threads) * threads)
                              : threads / period * period;
    return (1024 / threads) * slots;
  };
  int64_t best = 0;
  for (int threads = 128; threads <= max_threads; threads += 32)
    best = std::max(best, busy(threads));
  int chosen = 128;
  for (int threads = 128; threads <= max_threads; threads += 32) {
    if (10 * busy(threads) >= 8 * best) {
      chosen = threads;
      if (!few_blocks) break;
    }
  }
  return chosen;
}

// Vectors in a period of the walk over A (matrix.cuh).
inline int64_t plan_period(int64_t width, int vector) {
  const int64_t pow2 = std::max<int64_t>(1, width & -width);
  return std::max<int64_t>(1, width / std::min<int64_t>(pow2, vector));
}

// Channels of a block. `wanted` blocks a sample fill the GPU, `affordable` of them keep the extra
// traffic small.
inline void split_channels(const PlanShape& s, int64_t wanted, int64_t affordable, CamPlan* plan) {
  const int64_t granule = 32 / s.element;  // whole 32-byte sectors in either layout
  // Below 8 KiB of A a block has too little to do.
  const int64_t useful = ceil_div(s.channels * s.cells * s.element, 8192);
  int64_t splits = std::max<int64_t>(1, std::min({wanted, affordable, useful}));
  int64_t largest = std::min<int64_t>(s.max_chunk, kMaxElements / std::max(s.cells, s.grad_cells));
  if (s.channels * std::max(s.cells, s.grad_cells) > INT32_MAX) {
    throw std::runtime_error("fastcam: a sample of more than 2^31 values");
  }
  if (largest < 1) throw std::runtime_error("fastcam: a map of more than 2^25 cells");
  if (largest >= granule) largest = largest / granule * granule;
  splits = std::max(splits, ceil_div(s.channels, largest));
  int64_t chunk = ceil_div(std::max<int64_t>(1, s.channels), splits);
  if (splits > 1) chunk = std::min(ceil_div(chunk, granule) * granule, largest);
  plan->chunk = int(chunk);
  plan->splits = int(std::max<int64_t>(1, ceil_div(s.channels, chunk)));
}

// Bytes of A and D that a forward must read.
inline int64_t forward_bytes(const PlanShape& s) {
  return s.channels * s.cells * s.element + s.targets * s.channels * s.grad_cells * s.grad_element;
}

// Forward: a block makes the channel weights of its channels and their part of the map; if a sample
// has several blocks, each leaves its part in the workspace and the last to finish adds them up.
inline CamPlan plan_forward(const PlanShape& s, int scratch_values(int threads)) {
  CamPlan plan{};
  plan.target_blocks = int(ceil_div(s.targets, s.per_block));
  const int64_t base = s.batch * plan.target_blocks;
  const int64_t wanted = base >= 2 * s.multiprocessors ? 1 : ceil_div(2 * s.multiprocessors, base);
  // Parts are written and read once more: at most 4 % of what has to be read anyway.
  const int64_t part = 2 * s.targets * s.cells * s.acc;
  split_channels(s, wanted, forward_bytes(s) / (25 * part), &plan);
  plan.blocks = base * plan.splits;

  const int vector = 16 / s.element;
  const int64_t period = plan_period(s.channels_last ? plan.chunk : s.cells, vector);
  plan.threads = plan_threads(period, s.max_threads, plan.blocks < 2 * s.multiprocessors);
  plan.scratch_values = scratch_values(plan.threads);
  const int64_t fixed =
      kReservedBytes + int64_t(s.acc) * (plan.scratch_values + s.per_block * plan.chunk);
  const int64_t map = int64_t(s.acc) * s.per_block * s.cells;
  plan.map_shared = fixed + map <= kSharedBytes;
  plan.shared_bytes = int(fixed + (plan.map_shared ? map : 0));
  if (plan.splits > 1) {
    plan.tickets_bytes = ceil_div(base * 4, 256) * 256;
    plan.workspace_bytes = plan.tickets_bytes + base * plan.splits * s.per_block * s.cells * s.acc;
  }
  return plan;
}

// Backward: some blocks of a sample sum over A (the gradient of D), one for each target block;
// others write the gradient of A, which does not need A. `roles` is how many of both a channel
// block has.
inline CamPlan plan_backward(const PlanShape& s, bool need_activations, bool need_gradients,
                             int scratch_values(int threads)) {
  if (s.targets < 1 || !(need_activations || need_gradients)) {
    throw std::runtime_error("fastcam: a backward without targets or without gradients");
  }
  CamPlan plan{};
  plan.target_blocks = need_gradients ? int(ceil_div(s.targets, s.per_block)) : 0;
  const int64_t roles = plan.target_blocks + (need_activations ? 1 : 0);
  const int64_t base = s.batch * roles;
  const int64_t wanted = base >= 8 * s.multiprocessors ? 1 : ceil_div(8 * s.multiprocessors, base);
  // Every block reads the map gradient: at most 3 % of the rest; of several targets, whose blocks
  // are long, 10 %, mostly from a cache (N = 64, T = 4 takes half the time on an H100).
  const int64_t percent = s.per_block > 1 ? 10 : 3;
  const int64_t moved = roles * s.channels * s.cells * s.element;
  const int64_t maps = roles * std::min<int64_t>(s.targets, s.per_block) * s.cells * s.acc;
  split_channels(s, wanted, percent * moved / (100 * maps), &plan);
  // More targets than registers hold: fewer channels, if shared memory then holds what is read for
  // each of them.
  const int64_t granule = 32 / s.element;
  const int64_t room = (kSharedBytes - kReservedBytes) / s.acc / s.targets - s.cells;  // channels
  plan.many_shared = need_activations && s.targets > s.per_block && room >= granule;
  if (plan.many_shared && room < plan.chunk) {
    plan.chunk = int(room / granule * granule);
    plan.splits = int(ceil_div(s.channels, plan.chunk));
  }
  plan.blocks = base * plan.splits;

  const int vector = 16 / s.element;
  const int64_t period = plan_period(s.channels_last ? plan.chunk : s.cells, vector);
  plan.threads = plan_threads(period, s.max_threads, plan.blocks < 2 * s.multiprocessors);
  plan.scratch_values = scratch_values(plan.threads);
  const int64_t fixed =
      kReservedBytes + int64_t(s.acc) * (plan.scratch_values + s.per_block * plan.chunk);
  const int64_t map = int64_t(s.acc) * s.per_block * s.cells;
  plan.map_shared = fixed + map <= kSharedBytes;
  plan.shared_bytes = int(fixed + (plan.map_shared ? map : 0));
  if (plan.many_shared) {
    const int64_t many = kReservedBytes + s.acc * s.targets * (plan.chunk + s.cells);
    plan.shared_bytes = std::max(plan.shared_bytes, int(many));
  }
  return plan;
}

}  // namespace fastcam
