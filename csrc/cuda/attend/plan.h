// How the launches of tone_curve and attend are cut into blocks. Plain C++, as cuda/cam/plan.h.
#pragma once

#include <numeric>

#include "cuda/cam/plan.h"

namespace fastcam {

// Threads of a block: three of them share a multiprocessor in float, two in double.
template <class Acc>
inline constexpr int kAttendThreads = sizeof(Acc) == 4 ? 256 : 192;
template <class Acc>
inline constexpr int kAttendBlocks = sizeof(Acc) == 4 ? 3 : 2;

// Curves of one launch, a kernel argument. More take more launches.
inline constexpr int kCurvesPerLaunch = 64;

// Can a tensor's rows of `row` values be cut into whole aligned vectors?
inline bool in_vectors(const void* data, int64_t row, int element) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && row * element % 16 == 0;
}

struct AttendPlan {
  bool vectors;  // 16 bytes at a time; else value by value
  int threads;
  int width;   // slots of a group of threads: each is one vector (or value), for all k of the group
  int groups;  // of threads, each with some of the attributes
  int64_t blocks;

  // forward
  int chunk;         // channels of a block
  int tiles;         // blocks along the channels
  int attributes;    // of a block
  int splits;        // blocks along the attributes
  int parts_values;  // of one buffer
  int sums_values;

  // backward
  int batch;           // attributes whose gradients are staged at a time
  int batch_channels;  // channels that a block touches, at most

  int staged_bytes;  // of the features, first in shared memory
  int shared_bytes;
};

struct AttendPlanShape {
  AttendShape shape;
  bool pool;
  bool vectors;  // do pointers and sizes allow them?
  int curves;
  int element;
  int acc;
  int threads;
  int unroll;
  int multiprocessors;
};

inline void check_attend(const AttendShape& s) {
  if (s.channels * s.cells > INT32_MAX / 2 || s.attributes * s.channels > INT32_MAX) {
    throw std::runtime_error("fastcam: attend on a sample of more than 2^30 values");
  }
}

// Forward: a block takes some whole channels of one sample, so that it has their sums, and some
// attributes. Each thread has one vector of the features and uses it for one attribute after the
// other; where the channels have fewer vectors than the block has threads, several groups of
// threads share the attributes.
inline AttendPlan plan_attend_forward(const AttendPlanShape& s) {
  const AttendShape& shape = s.shape;
  check_attend(shape);
  AttendPlan plan{};
  plan.vectors = s.vectors && shape.cells * s.element >= 16;  // two rows a vector at most
  plan.threads = s.threads;
  const int64_t V = plan.vectors ? 16 / s.element : 1;
  const int64_t P = shape.cells, C = shape.channels, K = shape.attributes;

  // The fewest channels that are a whole number of vectors; if they fit, of 32-byte sectors.
  int64_t granule = V / std::gcd(P, V);
  const int64_t whole = 32 / s.element;
  const int64_t sectors = whole / std::gcd(P, whole);
  if (plan.vectors && sectors * P <= s.threads * V) granule = sectors;
  granule = std::min(granule, C);

  // Threads with something to do when a block takes `chunk` channels.
  const auto busy = [&](int64_t chunk) {
    const int64_t slots = ceil_div(chunk * P, V);
    if (slots > s.threads) return slots * s.threads / (ceil_div(slots, s.threads) * s.threads);
    return std::min(s.threads / slots, K) * slots;
  };
  const auto tiles = [&](int64_t chunk) { return shape.batch * ceil_div(C, chunk); };
  const int64_t sums = 1 + (s.pool ? s.curves : 0);
  const int64_t few =
      sums * std::min<int64_t>(K, 40) * s.acc;  // of the sums of a channel, in bytes
  int64_t chunk = granule;
  for (int64_t more = granule;
       more <= C && ceil_div(more * P, V) <= s.threads && more * few <= kSharedBytes / 3;
       more += granule) {
    const bool fill = tiles(more) >= 4 * s.multiprocessors;
    const bool better = busy(more) > busy(chunk) && (fill || 4 * busy(chunk) < 3 * busy(more));
    // Many results for each channel: more channels make longer runs of stores.
    const bool longer = s.pool && s.curves > 1 && busy(more) >= busy(chunk) &&
                        2 * tiles(more) >= 3 * s.multiprocessors;
    if (better || longer) chunk = more;
  }
  plan.chunk = int(chunk);
  plan.tiles = int(ceil_div(C, chunk));
  const int64_t slots = ceil_div(chunk * P, V);
  plan.width = int(std::min<int64_t>(slots, s.threads));
  plan.groups = s.threads / plan.width;

  // Every block reads its features: with several along the attributes, at most 3 % of the rest.
  const int64_t per_feature = K + 1 + (s.pool ? 0 : K * s.curves);
  const int64_t wanted = ceil_div(3 * s.multiprocessors, tiles(chunk));
  int64_t splits = std::min({wanted, 1 + 3 * per_feature / 100, ceil_div(K, plan.groups)});
  splits = std::max<int64_t>(1, splits);

  // The sums of a block's rows are kept in shared memory.
  plan.parts_values = 2 * s.unroll * plan.groups * plan.width;
  plan.staged_bytes = int(ceil_div(plan.width * V * s.element, 16) * 16);
  const int64_t fixed = plan.staged_bytes + int64_t(2) * plan.parts_values * s.acc;
  const int64_t room = (kSharedBytes - fixed) / (sums * chunk * s.acc);
  if (room < 1) throw std::runtime_error("fastcam: attend does not fit into shared memory");
  splits = std::max(splits, ceil_div(K, room));
  plan.attributes = int(ceil_div(K, splits));
  plan.splits = int(ceil_div(K, plan.attributes));
  plan.sums_values = int(sums * chunk * plan.attributes);
  plan.shared_bytes = int(fixed + int64_t(plan.sums_values) * s.acc);
  plan.blocks = tiles(chunk) * plan.splits;
  return plan;
}

// Backward: no sums over cells, so that a block takes any whole warps of vectors of a sample, and
// all attributes: the gradient of its features is a sum over them, kept in registers.
inline AttendPlan plan_attend_backward(const AttendPlanShape& s) {
  const AttendShape& shape = s.shape;
  check_attend(shape);
  AttendPlan plan{};
  plan.vectors = s.vectors && shape.cells * s.element >= 16;
  plan.threads = s.threads;
  const int64_t V = plan.vectors ? 16 / s.element : 1;
  const int64_t slots = shape.channels * shape.cells / V;
  const auto blocks = [&](int64_t width) { return shape.batch * ceil_div(slots, width); };
  // Few blocks: narrow ones, whose groups share the attributes.
  int width = s.threads;
  while (width % 64 == 0 && blocks(width) < 4 * s.multiprocessors &&
         s.threads / (width / 2) <= shape.attributes) {
    width /= 2;
  }
  plan.width = width;
  plan.groups = s.threads / width;
  plan.tiles = int(ceil_div(slots, width));
  plan.blocks = blocks(width);

  // Pooled: the gradients of the block's rows, for some attributes at a time.
  const int64_t values = width * V;
  plan.batch_channels =
      s.pool ? int(std::min<int64_t>(shape.channels, (values - 1) / shape.cells + 2)) : 0;
  plan.staged_bytes = int(ceil_div(values * s.element, 16) * 16);
  const int64_t sums = int64_t(s.threads) * V * s.acc;  // of the groups
  const int64_t row = int64_t(plan.batch_channels + 1) * s.acc;
  const int64_t room = (kSharedBytes / 2 - plan.staged_bytes) / row;
  plan.batch = int(std::max<int64_t>(1, std::min(shape.attributes, room)));
  plan.shared_bytes = int(plan.staged_bytes + std::max(sums, plan.batch * row));
  return plan;
}

}  // namespace fastcam
