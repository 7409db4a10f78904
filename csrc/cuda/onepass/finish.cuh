// A finished map -> its loss and the gradient of the loss in the map. A team of warps has a map,
// and several teams of a block work side by side, in step: they share the block's barriers.
#pragma once

#include "common/losses.h"
#include "cuda/device.cuh"
#include "cuda/onepass/plan.h"

namespace fastcam {

struct Team {
  int at_once;     // teams of the block
  int index;       // of this thread's; at least at_once for the warps left over
  int warps;       // of a team
  int first_warp;  // of this thread's
  int member;      // this thread's place
};

// Teams for `maps` maps: as large as the block allows and the cells need.
FASTCAM_DEVICE Team team_of(int maps, int cells) {
  const int warps = int(blockDim.x) / kWarp;
  const int needed = (cells + kWarp - 1) / kWarp;
  Team team{};
  team.warps = maps < warps ? warps / maps : 1;
  if (team.warps > needed) team.warps = needed;
  team.at_once = warps / team.warps;
  team.index = int(threadIdx.x) / kWarp / team.warps;
  team.first_warp = team.index < team.at_once ? team.index * team.warps : 0;
  team.member = int(threadIdx.x) - team.first_warp * kWarp;
  return team;
}

// Over the team, in a fixed order. `slots` is free for one T per warp, and not used again before
// the block's next barrier but one.
template <class T, class Op>
FASTCAM_DEVICE T team_reduce(T value, const Team& team, void* slots, const Op& op) {
  static_assert(sizeof(T) <= size_t(kPassReductionBytes));
  value = subwarp_reduce(value, kWarp, op);
  if (team.warps == 1) return value;
  T* mine = static_cast<T*>(slots);
  const int thread = int(threadIdx.x);
  if (thread % kWarp == 0) mine[thread / kWarp] = value;
  __syncthreads();
  value = mine[team.first_warp];
#pragma unroll 1
  for (int w = 1; w < team.warps; ++w) value = op(value, mine[team.first_warp + w]);
  return value;
}

template <class Acc>
struct PairLoss {
  Acc value;
  uint8_t status;  // 0: no region, or the loss is not defined
};

// One map per team. `load(cell)` gives the map's value, `emit(cell, d loss / d map before ReLU)`
// takes a cell's gradient, 0 for an invalid pair. Teams without a pair (`active` false) take part in
// the barriers, and emit zeros if they have a place for them (`emits`). A thread comes back to its
// own cells only: `map` and `slopes` ([P], shared) keep what it knows of them. `slopes` holds the
// region when it comes in. `weight` may be null.
template <class Loss, class Acc, class Load, class Emit>
FASTCAM_DEVICE PairLoss<Acc> finish_in_team(const Loss& loss, const Team& team, bool active,
                                            bool emits, Acc* map, Acc* slopes, const Acc* weight,
                                            int cells, int width, Acc max_pull, char* scratch,
                                            const Load& load, const Emit& emit) {
  const int stride = team.warps * kWarp;
  const int begin = active ? team.member : cells;
  const int slot_bytes = int(blockDim.x) / kWarp * kPassReductionBytes;
  struct First {
    Peak<Acc> peak;
    Acc area;
  };
  First first{{Acc(-1), INT32_MAX}, Acc(0)};
#pragma unroll 1
  for (int q = begin; q < cells; q += stride) {
    const Acc r = relu(load(q));
    map[q] = r;
    first.peak = higher_peak(first.peak, Peak<Acc>{r, q});
    first.area += weight == nullptr ? slopes[q] : weight[q] * slopes[q];
  }
  first = team_reduce(first, team, scratch, [](const First& a, const First& b) {
    return First{higher_peak(a.peak, b.peak), a.area + b.area};
  });

  const Acc divisor = map_divisor(first.peak.value);
  const auto cell_at = [&](int q, Acc x) {
    return Cell<Acc>{x, slopes[q], weight == nullptr ? Acc(1) : weight[q], q / width, q % width};
  };
  struct Terms {
    Acc value[Loss::kSums];
  };
  Terms sum{};
#pragma unroll 1
  for (int q = begin; q < cells; q += stride) {
    Acc term[Loss::kSums];
    loss.terms(cell_at(q, map[q] / divisor), term);
#pragma unroll
    for (int j = 0; j < Loss::kSums; ++j) sum.value[j] += term[j];
  }
  sum = team_reduce(sum, team, scratch + slot_bytes, [](Terms a, const Terms& b) {
#pragma unroll
    for (int j = 0; j < Loss::kSums; ++j) a.value[j] += b.value[j];
    return a;
  });
  PairLoss<Acc> result{Acc(0), 0};
  Acc derivative[Loss::kSums];
  const Acc value = loss.combine(sum.value, derivative);
  // An area of NaN is not empty: the loss becomes NaN.
  if (active && first.area != Acc(0) && loss.defined(sum.value)) {
    result.value = value;
    result.status = uint8_t(kStatusValid | (first.peak.value == Acc(0) ? kStatusDead : 0));
  }

  struct SlopeSums {
    Acc slope_dot_x, magnitude;
  };
  SlopeSums slope_sums{Acc(0), Acc(0)};
#pragma unroll 1
  for (int q = begin; q < cells; q += stride) {
    const Acc x = map[q] / divisor;
    const Acc slope = loss.slope(cell_at(q, x), derivative);
    slopes[q] = slope;
    slope_sums.slope_dot_x += slope * x;
    slope_sums.magnitude += abs_(slope);
  }
  slope_sums =
      team_reduce(slope_sums, team, scratch + 2 * slot_bytes,
                  [](const SlopeSums& a, const SlopeSums& b) {
                    return SlopeSums{a.slope_dot_x + b.slope_dot_x, a.magnitude + b.magnitude};
                  });
  const Acc cut = gradient_cut(slope_sums.magnitude, max_pull);
#pragma unroll 1
  for (int q = emits ? team.member : cells; q < cells; q += stride) {
    Acc gradient = Acc(0);
    if (result.status != 0) {
      gradient = cut * map_gradient(map[q], slopes[q], slope_sums.slope_dot_x,
                                    q == first.peak.cell, divisor);
    }
    emit(q, gradient);
  }
  return result;
}

// Sum or mean over the valid pairs, and how many they are; by one block, in a fixed order. What
// other blocks have written is visible. `scratch`: shared memory for one sum and count per warp.
template <class Acc>
FASTCAM_DEVICE void reduce_pairs(const CamLossForward& op, void* scratch) {
  struct Sum {
    Acc value;
    Acc count;
  };
  const int64_t pairs = op.loss.in.batch * op.loss.in.targets;
  Sum sum{Acc(0), Acc(0)};
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < pairs; i += blockDim.x) {
    sum.value += load_fresh(static_cast<const Acc*>(op.loss.loss) + i);
    sum.count += Acc(load_fresh(op.loss.status + i) & kStatusValid);
  }
  sum = block_reduce(sum, static_cast<Sum*>(scratch), [](const Sum& a, const Sum& b) {
    return Sum{a.value + b.value, a.count + b.count};
  });
  if (threadIdx.x == 0) {
    const bool mean = op.reduction == Reduction::kMean && sum.count > Acc(0);
    store(static_cast<Acc*>(op.reduced), mean ? sum.value / sum.count : sum.value);
    store(static_cast<Acc*>(op.count), sum.count);
  }
}

}  // namespace fastcam
