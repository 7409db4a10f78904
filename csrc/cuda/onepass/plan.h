// How the one-pass loss (forward_kernel.cuh) is cut into clusters, and how its write-only backward
// (backward_kernel.cuh) is cut into blocks. Plain C++ without torch and without CUDA.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>

#include "common/params.h"

namespace fastcam {

// Cells that one lane of the finishing warp holds.
inline constexpr int kPassCellsPerLane = 7;
inline constexpr int kPassMaxCells = 32 * kPassCellsPerLane;
inline constexpr int kPassMaxRanks = 8;  // of a cluster; every Hopper GPU has as many

// Threads of a block, and blocks that a multiprocessor shall hold, for kTargets targets at a time.
template <class Acc, int kTargets>
inline constexpr int kPassThreads = sizeof(Acc) == 8 ? 192 : 256;
constexpr int pass_blocks(int acc_bytes, int targets) {
  return acc_bytes == 8 || targets > 4 ? 2 : 3;
}
template <class Acc, int kTargets>
inline constexpr int kPassBlocks = pass_blocks(sizeof(Acc), kTargets);

// How A gets into shared memory.
enum class PassCopy : int32_t {
  kBulk,   // bulk copies
  kPlain,  // value by value
};

// In bytes of a block's shared memory, each a multiple of 16.
struct PassLayout {
  int alpha;  // [chunk, kTargets]: channel weights
  int part;   // [kTargets, P]: what this block's channels add to the maps; later [kTargets, chunk]
  int maps;   // [owned, P]
  int grad_map;  // [P, kTargets]
  int regions;   // [owned, P]
  int weights;   // [owned, P] if there are any
  int valid;     // [kTargets] int
  int scratch;   // [threads]
  int matrix;    // A
  int total;
};

struct PassPlan {
  int ranks;  // blocks of a sample, which are a cluster
  int chunk;  // channels of each, but for the last ones
  int threads;
  bool share;  // the blocks of a sample share its targets when they finish the maps
  PassCopy copy;
  bool run;   // rows lie one behind the other in shared memory as they do in A
  int pitch;  // from row to row in shared memory, in values
  int walk;   // values that a thread reads at once along a row
  int64_t blocks;
  PassLayout at;
};

struct PassShape {
  int64_t batch, targets, channels, cells;
  int element, acc;  // bytes
  bool channels_last;
  bool aligned;  // every sample of A starts at a multiple of 16 bytes
  bool weights;
  int per_pass;  // kTargets
  int threads;
  int multiprocessors;
  int shared_limit;  // bytes that a block can have
};

inline int64_t pass_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t pass_round_up(int64_t a, int64_t b) { return pass_ceil_div(a, b) * b; }

// How rows lie in shared memory, so that lanes reading along neighbouring rows use different banks:
// the step from row to row is an odd number of what a lane reads at once.
inline void plan_rows(const PassShape& s, PassPlan* plan) {
  const int vector = 16 / s.element;
  if (s.channels_last) {
    plan->run = false;
    plan->pitch = plan->chunk;
    if (s.aligned && s.channels % vector == 0) {
      plan->copy = PassCopy::kBulk;
      plan->walk = vector;
      if (plan->chunk / vector % 2 == 0) plan->pitch += vector;
    } else {
      plan->copy = PassCopy::kPlain;
      plan->walk = 1;
      plan->pitch |= 1;
    }
    return;
  }
  const int cells = int(s.cells);
  plan->copy = PassCopy::kBulk;
  plan->run = true;
  plan->pitch = cells;
  plan->walk = 1;
  const auto odd = [&](int values) { return cells % values == 0 && cells / values % 2 == 1; };
  if (!s.aligned || cells % 2 == 1) return;
  if (odd(vector)) {
    plan->walk = vector;
  } else if (s.element == 2 && odd(4)) {
    plan->walk = 4;
  } else if (cells % vector == 0) {
    plan->run = false;
    plan->pitch = cells + vector;
    plan->walk = vector;
  }
}

inline PassPlan plan_pass_with(const PassShape& s, int ranks) {
  PassPlan plan{};
  plan.ranks = ranks;
  plan.threads = s.threads;
  const int64_t granule = 16 / s.element;
  plan.chunk = int(pass_round_up(pass_ceil_div(s.channels, ranks), granule));
  plan_rows(s, &plan);
  plan.blocks = s.batch * ranks;
  plan.share = s.per_pass > 4 && ranks > 1;
  return plan;
}

inline void place_pass(const PassShape& s, PassPlan* plan) {
  const int64_t owned = plan->share ? pass_ceil_div(s.per_pass, plan->ranks) : s.per_pass;
  int64_t next = 16;  // the barrier
  const auto take = [&](int64_t bytes) {
    const int64_t at = next;
    next += pass_round_up(bytes, 16);
    return int(std::min<int64_t>(at, INT32_MAX));
  };
  PassLayout& at = plan->at;
  at.alpha = take(int64_t(plan->chunk) * s.per_pass * s.acc);
  at.part = take(s.per_pass * std::max<int64_t>(s.cells, plan->chunk) * s.acc);
  at.maps = take(owned * s.cells * s.acc);
  at.grad_map = take(s.cells * s.per_pass * s.acc);
  at.regions = take(owned * s.cells * s.acc);
  at.weights = take(s.weights ? owned * s.cells * s.acc : 0);
  at.valid = take(int64_t(s.per_pass) * 4);
  at.scratch = take(int64_t(plan->threads) * 2 * s.acc);
  const int64_t rows = s.channels_last ? s.cells : plan->chunk;
  at.matrix = take(rows * plan->pitch * s.element + 32);
  at.total = int(std::min<int64_t>(next, INT32_MAX));
}

// Blocks of this plan that a multiprocessor holds at once: of its 228 KiB of shared memory every
// block takes one for itself.
inline int64_t resident_blocks(const PassShape& s, const PassPlan& plan) {
  return std::min(pass_blocks(s.acc, s.per_pass), 228 * 1024 / (plan.at.total + 1024));
}

// Nothing if a sample does not fit into the shared memory of a cluster.
inline std::optional<PassPlan> plan_pass(const PassShape& s) {
  if (s.cells < 1 || s.cells > kPassMaxCells || s.channels < 1) return std::nullopt;
  if (s.batch * kPassMaxRanks > INT32_MAX || s.channels * s.cells > (1 << 24)) return std::nullopt;
  // Two or three blocks a multiprocessor, so that one copies while others compute; the smallest
  // cluster that allows it. Few samples: larger clusters, so that more multiprocessors take part.
  // A block that has its sample alone exchanges nothing; some multiprocessors may then be idle.
  const int most = std::min(s.shared_limit, (s.per_pass == 1 ? 112 : 74) * 1024);
  std::optional<PassPlan> chosen, at_once;
  for (int ranks = 1; ranks <= kPassMaxRanks; ranks *= 2) {
    PassPlan plan = plan_pass_with(s, ranks);
    place_pass(s, &plan);
    if (plan.at.total > s.shared_limit) continue;
    chosen = plan;
    if (!at_once && 4 * plan.blocks >= 3 * s.multiprocessors &&
        plan.blocks <= s.multiprocessors * resident_blocks(s, plan)) {
      at_once = plan;
    }
    const int64_t enough = (ranks == 1 ? 7 : 8) * s.multiprocessors;  // quarters of a block
    const bool fills = 4 * plan.blocks >= enough || plan.chunk <= 16;
    if (plan.at.total <= most && fills) break;
  }
  // With several targets a second wave of blocks costs more than the lower occupancy of larger
  // ones.
  if (s.per_pass > 1 && at_once &&
      chosen->blocks > s.multiprocessors * resident_blocks(s, *chosen)) {
    return at_once;
  }
  return chosen;
}

// ---- backward -----------------------------------------------------------------------------------

// A block writes some rows of one sample's dA: channels, or cells where channels are last.
struct PassBackwardPlan {
  int threads;
  int splits;
  int rows;    // of each block but the last
  int vector;  // neighbouring columns of a thread
  int64_t blocks;
  int shared_bytes;
};

// Small blocks, of which many fit, where a thread holds many factors or the samples are few; else
// as many threads of which most have columns. `slots`: threads that a row of columns needs.
inline int pass_backward_threads(const PassShape& s, int64_t slots) {
  const bool few = !s.channels_last && s.batch < s.multiprocessors;
  if (s.per_pass <= 4 && slots > 128 && slots <= 192) return 192;
  if (s.per_pass > 1 || few) return 128;
  int chosen = 128;
  int64_t best = 0;
  for (int threads = 128; threads <= s.threads; threads += 32) {
    const int64_t busy = slots >= threads ? slots * 1000 / pass_round_up(slots, threads)
                                          : threads / slots * slots * 1000 / threads;
    if (busy > best + 20) {
      best = busy;
      chosen = threads;
    }
  }
  return chosen;
}

inline PassBackwardPlan plan_pass_backward(const PassShape& s, int max_vector) {
  PassBackwardPlan plan{};
  const int64_t rows = s.channels_last ? s.cells : s.channels;
  const int64_t cols = s.channels_last ? s.channels : s.cells;
  plan.vector = cols % max_vector == 0 ? max_vector : 1;
  plan.threads = pass_backward_threads(s, cols / plan.vector);
  const int64_t wanted = pass_ceil_div(8 * s.multiprocessors, std::max<int64_t>(1, s.batch));
  const int64_t sample = rows * cols * s.element;
  int64_t splits = std::max(pass_ceil_div(sample, 32 * 1024), std::min(wanted, sample / 4096));
  // The rows' factors, for all targets, have to fit into 32 KiB of shared memory.
  const int64_t row_bytes = pass_round_up(s.targets, s.per_pass) * s.acc;
  const int64_t fit = std::max<int64_t>(1, 32 * 1024 / row_bytes);
  splits = std::clamp<int64_t>(std::max(splits, pass_ceil_div(rows, fit)), 1, rows);
  plan.rows = int(pass_ceil_div(rows, splits));
  if (plan.rows >= 4)
    plan.rows = int(std::min(pass_round_up(plan.rows, 4), std::max<int64_t>(fit / 4 * 4, 4)));
  plan.splits = int(pass_ceil_div(rows, plan.rows));
  plan.blocks = s.batch * plan.splits;
  plan.shared_bytes = int(std::min<int64_t>(plan.rows * row_bytes, INT32_MAX));
  return plan;
}

}  // namespace fastcam
