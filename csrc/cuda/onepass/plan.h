// How the one-pass loss (forward_kernel.cuh) is cut into clusters, and how its write-only backward
// (backward_kernel.cuh) is cut into blocks. Plain C++ without torch and without CUDA.
#pragma once

#include <optional>

#include "cuda/plan.h"

namespace fastcam {

inline constexpr int kPassMaxRanks = 8;  // of a cluster; every Hopper GPU has as many
inline constexpr int kPassMaxThreads = 512;
// Several targets: more warps, each of which has its part of a map to finish.
constexpr int pass_threads(int acc_bytes, int targets) {
  return acc_bytes == 8 || targets == 1 ? 256 : 512;
}
inline constexpr int kPassMostTargets = 16;  // that a kernel handles at a time
// Does a kernel that handles so many at a time have all targets? The others are not launched with
// more of them, and the compiler saves the registers of a loop.
constexpr bool pass_once(int targets) { return targets < kPassMostTargets; }
inline constexpr int kPassGroups = 16;     // of threads that share the sums of one column, at most
inline constexpr int kPassReductions = 3;  // of a finished map
inline constexpr int kPassReductionBytes = 64;  // of one, in a warp
// Shared memory of one, in a block of so many threads.
constexpr int pass_reduction_bytes(int threads) { return threads / kWarp * kPassReductionBytes; }

// Blocks that a multiprocessor shall hold, for `targets` targets at a time.
constexpr int pass_blocks(int acc_bytes, int targets) {
  return acc_bytes == 8 || targets > 1 ? 1 : 3;
}
// Columns of a thread: with two, what is multiplied is read half as often.
constexpr int pass_columns(int targets) { return targets > 4 ? 2 : 1; }
inline constexpr int kPassLog2Stages = 2;  // of the targets whose D is on its way at once, at most
inline constexpr int kPassLog2Ring = 3;    // the same where D's stages take the place of A

// Groups of threads that share `columns` columns, `own` of them a thread.
FASTCAM_HD int pass_groups(int threads, int columns, int own) {
  const int slots = ceil_div(columns, own);
  const int groups = slots > 0 ? threads / slots : 1;
  return groups < 1 ? 1 : (groups > kPassGroups ? kPassGroups : groups);
}

// How a matrix (channels x cells, or cells x channels where channels are last) gets into shared
// memory and lies there.
struct PassMatrix {
  bool bulk;      // by bulk copies, else value by value
  bool run;       // rows lie one behind the other in shared memory as they do in the tensor
  int32_t pitch;  // from row to row in shared memory, in values
  int32_t walk;   // values that a thread reads at once along a row
};

// Where things begin in a block's shared memory, in bytes, each a multiple of 16.
struct PassOffsets {
  int alpha;      // [chunk, kTargets]: channel weights
  int grad_map;   // [P, kTargets]
  int maps;       // [owned, P]
  int regions;    // [owned, P]; later the slopes of the loss
  int weights;    // [owned, P] if there are any
  int valid;      // [kTargets] int
  int on;         // [kTargets] int
  int scratch;    // of reductions
  int partial;    // [2, groups, together * chunk]: sums of D
  int sums;       // [groups, kTargets, P or chunk]: sums of A; the maps are read by the cluster
  int gradients;  // D of some targets, in the same place: it is used up before
  int stage;      // bytes of one target's D
  int matrix;     // A
  int total;
};

struct PassPlan {
  int ranks;  // blocks of a sample, which are a cluster
  int chunk;  // channels of each, but for the last ones
  int threads;
  int log2_stages;     // of the targets whose D is on its way at once, a divisor of kTargets
  int log2_together;   // of those whose D is summed up at once, a divisor of the stages
  bool rows_adjoin;    // in shared memory one target's rows of D follow the other's at once
  int team_warps;      // warps that finish a map
  int teams;           // maps that a block finishes at once
  bool split_targets;  // the blocks of a sample share its targets when they finish the maps
  bool ring;           // D's stages take the place of A, too, which is copied after them
  PassMatrix a;
  PassMatrix d;
  int64_t blocks;
  PassOffsets at;
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
  int64_t grad_cells = 1;
  int grad_element = 4;
  bool grad_channels_last = false;
  bool grad_aligned = true;  // every target's D of a sample starts at a multiple of 16 bytes
  bool ring = false;         // asked for, where it is possible
};

// Lanes that read along neighbouring rows use different banks where the step from row to row is an
// odd number of what a lane reads at once.
inline PassMatrix plan_matrix(int64_t channels, int chunk, int64_t cells, int element, bool aligned,
                              bool channels_last) {
  const int vector = kVectorBytes / element;
  PassMatrix m{};
  if (channels_last) {
    m.run = false;
    m.pitch = chunk;
    if (aligned && channels % vector == 0) {
      m.bulk = true;
      m.walk = vector;
      if (chunk / vector % 2 == 0) m.pitch += vector;
    } else {
      m.bulk = false;
      m.walk = 1;
      m.pitch |= 1;
    }
    return m;
  }
  m.bulk = true;
  m.run = true;
  m.pitch = int32_t(cells);
  m.walk = 1;
  const auto odd = [&](int values) { return cells % values == 0 && cells / values % 2 == 1; };
  if (!aligned || cells % 2 == 1) return m;
  if (odd(vector)) {
    m.walk = vector;
  } else if (element == 2 && odd(4)) {
    m.walk = 4;
  } else if (cells % vector == 0) {
    m.run = false;
    m.pitch = int32_t(cells) + vector;
    m.walk = vector;
  }
  return m;
}

inline int64_t matrix_bytes(const PassMatrix& m, int chunk, int64_t cells, int element,
                            bool channels_last) {
  return round_up((channels_last ? cells : chunk) * int64_t(m.pitch) * element + 32, 16);
}

inline void place_pass(const PassShape& s, PassPlan* plan) {
  const int64_t owned = plan->split_targets ? ceil_div(s.per_pass, plan->ranks) : s.per_pass;
  int64_t next = 16 + (8 << (plan->ring ? kPassLog2Ring : kPassLog2Stages));  // the barriers
  const auto take = [&](int64_t bytes) {
    const int64_t at = next;
    next += round_up(bytes, 16);
    return int(std::min<int64_t>(at, INT32_MAX));
  };
  // Bytes of partial[groups, values, count].
  const auto sums = [&](int64_t count, int values, int own) {
    const int most = int(std::min<int64_t>(count, INT32_MAX));
    return int64_t(pass_groups(plan->threads, most, own)) * count * values * s.acc;
  };
  // Of a block's channels: the last block may have fewer, and for them more groups.
  const auto sums_of_channels = [&](int values, int own) {
    return std::max(sums(plan->chunk, values, own), sums(s.channels % plan->chunk, values, own));
  };
  PassOffsets& at = plan->at;
  at.alpha = take(int64_t(plan->chunk) * s.per_pass * s.acc);
  const int64_t partial =
      (s.per_pass > 1 ? 2 : 1) * std::max(sums_of_channels(1, 1) << plan->log2_together,
                                          sums(int64_t(plan->chunk) << plan->log2_together, 1, 1));
  const int64_t maps_begin = next;
  at.grad_map = take(s.cells * s.per_pass * s.acc);
  at.maps = take(owned * s.cells * s.acc);
  if (plan->ring) {  // the sums of D are used up before the maps are finished
    at.partial = int(std::min<int64_t>(maps_begin, INT32_MAX));
    next = std::max(next, maps_begin + round_up(partial, 16));
  }
  at.regions = take(owned * s.cells * s.acc);
  at.weights = take(s.weights ? owned * s.cells * s.acc : 0);
  at.valid = take(int64_t(s.per_pass) * 4);
  at.on = take(int64_t(s.per_pass) * 4);
  at.scratch = take(int64_t(kPassReductions) * pass_reduction_bytes(plan->threads));
  if (!plan->ring) at.partial = take(partial);
  const int own = pass_columns(s.per_pass);
  const int64_t stage = plan->rows_adjoin ? int64_t(plan->chunk) * plan->d.pitch * s.grad_element
                                          : matrix_bytes(plan->d, plan->chunk, s.grad_cells,
                                                         s.grad_element, s.grad_channels_last);
  at.stage = int(std::min<int64_t>(stage, INT32_MAX / 8));
  const int64_t stages = int64_t(at.stage) << plan->log2_stages;
  const int64_t of_maps =
      std::max(sums(s.cells, s.per_pass, own), sums_of_channels(s.per_pass, own));
  at.sums = take(plan->ring ? of_maps : std::max(stages, of_maps));
  at.gradients = at.sums;
  at.matrix = take(matrix_bytes(plan->a, plan->chunk, s.cells, s.element, s.channels_last));
  if (plan->ring) next = std::max(next, at.gradients + round_up(stages, 16));
  at.total = int(std::min<int64_t>(next, INT32_MAX));
}

// Only where one pass has all targets: the next one's D would take the place of an A in use.
inline bool takes_ring(const PassShape& s) {
  return s.ring && s.per_pass > 1 && s.targets <= s.per_pass;
}

inline PassPlan plan_pass_with(const PassShape& s, int ranks, int log2_stages) {
  PassPlan plan{};
  plan.ranks = ranks;
  plan.threads = s.threads;
  plan.log2_stages = s.per_pass == 1 ? 0 : log2_stages;
  plan.ring = takes_ring(s);
  // With the ring as many are on their way as are summed up, or more.
  plan.log2_together = std::clamp(plan.ring ? plan.log2_stages - 1 : plan.log2_stages, 0, 1);
  const int64_t granule = kVectorBytes / std::min(s.element, s.grad_element);
  plan.chunk = int(round_up(ceil_div(s.channels, ranks), granule));
  plan.a = plan_matrix(s.channels, plan.chunk, s.cells, s.element, s.aligned, s.channels_last);
  plan.d = plan_matrix(s.channels, plan.chunk, s.grad_cells, s.grad_element, s.grad_aligned,
                       s.grad_channels_last);
  plan.rows_adjoin =
      plan.d.run && s.grad_aligned && s.channels * s.grad_cells * s.grad_element % 16 == 0;
  plan.blocks = s.batch * ranks;
  plan.split_targets = s.per_pass > 4 && ranks > 1;
  const int maps = int(plan.split_targets ? ceil_div(s.per_pass, ranks) : s.per_pass);
  const int warps = s.threads / kWarp;
  plan.team_warps = int(std::clamp<int64_t>(warps / maps, 1, ceil_div(s.cells, kWarp)));
  plan.teams = warps / plan.team_warps;
  place_pass(s, &plan);
  return plan;
}

// Nothing if a sample does not fit into the shared memory of a cluster.
inline std::optional<PassPlan> plan_pass(const PassShape& s) {
  if (s.cells < 1 || s.channels < 1) return std::nullopt;
  if (s.batch * kPassMaxRanks > INT32_MAX || s.channels * s.cells > (1 << 24)) return std::nullopt;
  if (s.channels * s.grad_cells > (1 << 24)) return std::nullopt;
  // Two or three blocks a multiprocessor, so that one copies while others compute; the smallest
  // cluster that allows it. Few samples: larger clusters, so that more multiprocessors take part.
  // A block that has its sample alone exchanges nothing; some multiprocessors may then be idle.
  // Several targets: one block with many threads, and D of some targets on its way.
  // (A multiprocessor has 1 KiB more than a block can have, and takes 1 KiB of it for each block.)
  const int half = (s.shared_limit + 1024) / 2 - 2048;
  const int most = s.per_pass > 1 ? s.shared_limit : half;
  const int fewest = s.per_pass > 1 ? 1 : 0;
  std::optional<PassPlan> chosen, at_once;
  for (int ranks = 1; ranks <= kPassMaxRanks; ranks *= 2) {
    int log2_stages = takes_ring(s) && s.per_pass > 4 ? kPassLog2Ring : kPassLog2Stages;
    PassPlan plan = plan_pass_with(s, ranks, log2_stages);
    while (plan.at.total > most && log2_stages > 0) {
      plan = plan_pass_with(s, ranks, --log2_stages);
    }
    if (plan.at.total > s.shared_limit) continue;
    chosen = plan;
    if (!at_once && 4 * plan.blocks >= 3 * s.multiprocessors && plan.blocks <= s.multiprocessors) {
      at_once = plan;
    }
    const bool fills = 10 * plan.blocks >= 9 * s.multiprocessors || plan.chunk <= 16;
    if (plan.at.total <= most && log2_stages >= fewest && fills) break;
  }
  // With several targets a second wave of blocks costs more than the lower occupancy of larger
  // ones.
  if (s.per_pass > 1 && at_once && chosen->blocks > s.multiprocessors) return at_once;
  return chosen;
}

// ---- backward -----------------------------------------------------------------------------------

// A block writes some rows of one sample's dA: channels, or cells where channels are last.
struct PassBackwardPlan {
  int threads;
  int splits;
  int rows;           // of each block but the last
  int vector;         // neighbouring columns of a thread
  int column_stride;  // between copies of the column factors in shared memory; 0: none
  int64_t blocks;
  int shared_bytes;
};

// Places for that many scales before what is read in vectors.
FASTCAM_HD int pass_scales(int targets) { return round_up(targets, 4); }

// Small blocks, of which many fit, where a thread holds many factors or the samples are few; else
// as many threads of which most have columns. `slots`: threads that a row of columns needs.
inline int pass_backward_threads(const PassShape& s, int64_t slots) {
  const bool few = !s.channels_last && s.batch < s.multiprocessors;
  if (s.per_pass > 1 && slots <= 64) return 256;
  if (s.per_pass <= 4 && slots > 128 && slots <= 192) return 192;
  if (s.per_pass > 1 || few) return 128;
  int chosen = 128;
  int64_t best = 0;
  for (int threads = 128; threads <= s.threads; threads += 32) {
    const int64_t busy = slots >= threads ? slots * 1000 / round_up(slots, threads)
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
  const bool narrow = s.per_pass > 4 && cols / plan.vector <= 64;
  const int64_t wanted =
      ceil_div((narrow ? 2 : 4) * s.multiprocessors, std::max<int64_t>(1, s.batch));
  const int64_t sample = rows * cols * s.element;
  int64_t splits = std::max(ceil_div(sample, 64 * 1024), std::min(wanted, sample / 4096));
  // The rows' factors, for all targets, have to fit into 32 KiB of shared memory.
  const int64_t row_bytes = round_up(s.targets, s.per_pass) * s.acc;
  const int64_t fit = std::max<int64_t>(1, 32 * 1024 / row_bytes);
  splits = std::clamp<int64_t>(std::max(splits, ceil_div(rows, fit)), 1, rows);
  plan.rows = int(ceil_div(rows, splits));
  if (plan.rows >= 4)
    plan.rows = int(std::min(round_up(int64_t(plan.rows), 4), std::max<int64_t>(fit / 4 * 4, 4)));
  // One target and rows that begin anywhere: blocks of rows that begin at a whole vector.
  const int flat = kVectorBytes / s.element;
  const int64_t stride = round_up(cols + flat + 16 / s.acc, 16 / s.acc);
  if (s.targets == 1 && plan.vector == 1 && rows % flat == 0 && cols >= flat &&
      stride * 16 <= 15 * 1024) {
    plan.rows = int(round_up(plan.rows, flat));
    plan.column_stride = int(stride);
    plan.threads = 192;
  }
  plan.splits = int(ceil_div(rows, plan.rows));
  plan.blocks = s.batch * plan.splits;
  const int64_t shared = int64_t(pass_scales(int(round_up(s.targets, s.per_pass)))) * s.acc +
                         round_up(plan.rows * row_bytes, 16) +
                         plan.column_stride * (16 / s.acc) * int64_t(s.acc);
  if (shared > kSharedBytes) throw std::runtime_error("fastcam: a backward of too many targets");
  plan.shared_bytes = int(shared);
  return plan;
}

}  // namespace fastcam
