// How the one-pass loss (pass_kernel.cuh) is cut into clusters, and how its write-only backward
// (pass_backward_kernel.cuh) is cut into blocks. Plain C++ without torch and without CUDA.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <optional>

#include "../fastcam.h"

namespace fastcam {

// Cells that one lane of the finishing warp holds.
inline constexpr int kPassCellsPerLane = 7;
inline constexpr int kPassMaxCells = 32 * kPassCellsPerLane;
inline constexpr int kPassMaxPieces = 4;
inline constexpr int kPassMaxRanks = 8;  // of a cluster; every Hopper GPU has as many

// Threads of a block, and blocks that a multiprocessor shall hold, for kTargets targets at a time.
template <class Acc, int kTargets>
inline constexpr int kPassThreads = 256;
template <class Acc, int kTargets>
inline constexpr int kPassBlocks = sizeof(Acc) == 8 || kTargets > 4 ? 2 : 3;

// How A gets into shared memory.
enum class PassCopy : int32_t {
  kBulk,   // bulk copies
  kAsync,  // 16 bytes a thread
  kPlain,  // value by value
};

// In bytes of a block's shared memory, each a multiple of 16.
struct PassLayout {
  int alpha;    // [chunk, kTargets]: channel weights
  int part;     // [kTargets, P]: what this block's channels add to the maps; later [kTargets, chunk]
  int maps;     // [owned, P]
  int unit;     // [P, kTargets]
  int regions;  // [owned, P]
  int weights;  // [owned, P] if there are any
  int valid;    // [kTargets] int
  int scratch;  // [threads]
  int matrix;   // A
  int total;
};

struct PassPlan {
  int ranks;  // blocks of a sample, which are a cluster
  int chunk;  // channels of each, but for the last ones
  int threads;
  int pieces;      // of the block's part of A; the map begins with the first
  int piece_rows;  // of each piece but the last
  bool share;      // the blocks of a sample share its targets when they finish the maps
  PassCopy copy;
  bool run;    // rows lie one behind the other in shared memory as they do in A
  int pitch;   // from row to row in shared memory, in values
  int walk;    // values that a thread reads at once when it goes along a row
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

// Settings to try on a GPU; 0 leaves the choice to the plan.
struct PassTuning {
  int ranks = 0;
  int threads = 0;
  int pieces = 0;
  int copy = -1;
  int share = -1;
  int backward_kib = 0;
  int backward_threads = 0;
};
inline PassTuning pass_tuning() {
  PassTuning tuning;
#if defined(FASTCAM_TUNING)
  const auto read = [](const char* name, int* to) {
    if (const char* value = std::getenv(name)) *to = std::atoi(value);
  };
  read("FASTCAM_PASS_RANKS", &tuning.ranks);
  read("FASTCAM_PASS_THREADS", &tuning.threads);
  read("FASTCAM_PASS_PIECES", &tuning.pieces);
  read("FASTCAM_PASS_COPY", &tuning.copy);
  read("FASTCAM_PASS_SHARE", &tuning.share);
  read("FASTCAM_PASS_BACKWARD_KIB", &tuning.backward_kib);
  read("FASTCAM_PASS_BACKWARD_THREADS", &tuning.backward_threads);
#endif
  return tuning;
}

inline int64_t pass_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t pass_round_up(int64_t a, int64_t b) { return pass_ceil_div(a, b) * b; }

// How rows lie in shared memory so that lanes that go along neighbouring rows meet different banks:
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
  plan.pieces = 1;
  plan.piece_rows = plan.chunk;
  return plan;
}

inline void place_pass(const PassShape& s, PassPlan* plan) {
  const int64_t owned = plan->share ? pass_ceil_div(s.per_pass, plan->ranks) : s.per_pass;
  int64_t next = 16 * ((kPassMaxPieces * 8 + 15) / 16);  // the barriers
  const auto take = [&](int64_t bytes) {
    const int64_t at = next;
    next += pass_round_up(bytes, 16);
    return int(std::min<int64_t>(at, INT32_MAX));
  };
  PassLayout& at = plan->at;
  at.alpha = take(int64_t(plan->chunk) * s.per_pass * s.acc);
  at.part = take(s.per_pass * std::max<int64_t>(s.cells, plan->chunk) * s.acc);
  at.maps = take(owned * s.cells * s.acc);
  at.unit = take(s.cells * s.per_pass * s.acc);
  at.regions = take(owned * s.cells * s.acc);
  at.weights = take(s.weights ? owned * s.cells * s.acc : 0);
  at.valid = take(int64_t(s.per_pass) * 4);
  at.scratch = take(int64_t(plan->threads) * 2 * s.acc);
  const int64_t rows = s.channels_last ? s.cells : plan->chunk;
  at.matrix = take(rows * plan->pitch * s.element + 32);
  at.total = int(std::min<int64_t>(next, INT32_MAX));
}

// Nothing if a sample does not fit into the shared memory of a cluster.
inline std::optional<PassPlan> plan_pass(const PassShape& s) {
  if (s.cells < 1 || s.cells > kPassMaxCells || s.channels < 1) return std::nullopt;
  if (s.batch * kPassMaxRanks > INT32_MAX || s.channels * s.cells > (1 << 24)) return std::nullopt;
  const PassTuning tuning = pass_tuning();
  PassShape shape = s;
  if (tuning.threads > 0) shape.threads = std::min(tuning.threads, s.threads);
  // Three blocks a multiprocessor, so that one copies while others compute; the smallest cluster
  // that allows it. Few samples: larger clusters, so that more multiprocessors take part.
  const int third = std::min(s.shared_limit, 74 * 1024);
  std::optional<PassPlan> chosen;
  for (int ranks = 1; ranks <= kPassMaxRanks; ranks *= 2) {
    if (tuning.ranks > 0 && ranks != tuning.ranks) continue;
    PassPlan plan = plan_pass_with(shape, ranks);
    if (tuning.share >= 0) plan.share = tuning.share != 0 && ranks > 1;
    if (tuning.copy >= 0 && plan.copy != PassCopy::kPlain) plan.copy = PassCopy(tuning.copy);
    place_pass(shape, &plan);
    if (plan.at.total > s.shared_limit) continue;
    chosen = plan;
    const bool fills = s.batch * ranks >= 2 * s.multiprocessors || plan.chunk <= 16;
    if (plan.at.total <= third && fills) break;
  }
  if (!chosen) return std::nullopt;
  // The map of one piece is made while the next is on its way: rows of channels only.
  if (s.channels_last) {
    chosen->piece_rows = int(s.cells);
    return chosen;
  }
  const int pieces = tuning.pieces > 0 ? std::min(tuning.pieces, kPassMaxPieces) : 2;
  const int granule = 4 * 16 / s.element;
  chosen->piece_rows = int(pass_round_up(pass_ceil_div(chosen->chunk, pieces), granule));
  chosen->pieces = int(pass_ceil_div(chosen->chunk, chosen->piece_rows));
  return chosen;
}

// ---- backward ----------------------------------------------------------------------------------

// A block writes some rows of one sample's dA: channels, or cells where channels are last.
struct PassBackwardPlan {
  int threads;
  int splits;
  int rows;    // of each block but the last
  int vector;  // neighbouring columns of a thread
  int64_t blocks;
  int shared_bytes;
};

inline PassBackwardPlan plan_pass_backward(const PassShape& s, int max_vector) {
  const PassTuning tuning = pass_tuning();
  PassBackwardPlan plan{};
  const int64_t rows = s.channels_last ? s.cells : s.channels;
  const int64_t cols = s.channels_last ? s.channels : s.cells;
  plan.vector = cols % max_vector == 0 ? max_vector : 1;
  // Threads of which most have columns.
  const int64_t slots = cols / plan.vector;
  int64_t best = 0;
  for (int threads = 128; threads <= s.threads; threads += 32) {
    const int64_t busy = slots >= threads ? slots * 1000 / pass_round_up(slots, threads)
                                          : threads / slots * slots * 1000 / threads;
    if (busy > best + 20) {
      best = busy;
      plan.threads = threads;
    }
  }
  if (tuning.backward_threads > 0) plan.threads = std::min(s.threads, tuning.backward_threads);
  const int64_t wanted = pass_ceil_div(8 * s.multiprocessors, std::max<int64_t>(1, s.batch));
  const int64_t sample = rows * cols * s.element;
  const int64_t most = (tuning.backward_kib > 0 ? tuning.backward_kib : 32) * int64_t(1024);
  int64_t splits = std::max(pass_ceil_div(sample, most), std::min(wanted, sample / 4096));
  // The rows' factors, for all targets, have to fit into 32 KiB of shared memory.
  const int64_t row_bytes = pass_round_up(s.targets, s.per_pass) * s.acc;
  const int64_t fit = std::max<int64_t>(1, 32 * 1024 / row_bytes);
  splits = std::clamp<int64_t>(std::max(splits, pass_ceil_div(rows, fit)), 1, rows);
  plan.rows = int(pass_ceil_div(rows, splits));
  if (plan.rows >= 4) plan.rows = int(std::min(pass_round_up(plan.rows, 4), std::max<int64_t>(fit / 4 * 4, 4)));
  plan.splits = int(pass_ceil_div(rows, plan.rows));
  plan.blocks = s.batch * plan.splits;
  plan.shared_bytes = int(std::min<int64_t>(plan.rows * row_bytes, INT32_MAX));
  return plan;
}

}  // namespace fastcam
