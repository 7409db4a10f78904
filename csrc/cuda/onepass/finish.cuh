// A finished map -> its loss and the gradient of the loss in the map. A team of warps has a map,
// and several teams of a block work side by side, in step: they share the block's barriers.
#pragma once

#include "common/losses.h"
#include "cuda/onepass/cluster.cuh"
#include "cuda/onepass/plan.h"

namespace fastcam {

// Warps side by side that have a map. The block has `plan.teams` of them, and warps left over.
struct Team {
  int index;
  int warps;
  int first_warp;  // 0 for the warps left over
  int member;      // this thread's place

  FASTCAM_DEVICE explicit Team(const PassPlan& plan) {
    warps = plan.team_warps;
    index = int(threadIdx.x) / kWarp / warps;
    first_warp = index < plan.teams ? index * warps : 0;
    member = int(threadIdx.x) - first_warp * kWarp;
  }
};

// The highest peak of a warp's lanes.
template <class Acc>
FASTCAM_DEVICE Peak<Acc> warp_peak(const Peak<Acc>& mine) {
  if constexpr (sizeof(Acc) == 4) {  // not negative: the bits are in the order of the values
    const uint32_t bits =
        is_nan(mine.value) ? 0xffffffffu : __builtin_bit_cast(uint32_t, mine.value);
    const uint32_t highest = warp_max(bits);
    const uint32_t cell = warp_min(bits == highest ? uint32_t(mine.cell) : 0xffffffffu);
    return {__builtin_bit_cast(Acc, highest), int32_t(cell)};
  } else {
    return subwarp_reduce(mine, kWarp, [](auto a, auto b) { return higher_peak(a, b); });
  }
}

// What a team adds up of its map, and its peak.
template <class Acc, int kSums>
struct Totals {
  Peak<Acc> peak;
  Acc sum[kSums];
};

// Over the team, in a fixed order. `slots` is free for one value per warp, and not used again
// before the block's next barrier but one. One warp: no barrier, which is the same for all teams.
template <bool kPeak, class Acc, int kSums>
FASTCAM_DEVICE void add_team(const Team& team, char* slots, Totals<Acc, kSums>& mine) {
  static_assert(sizeof(mine) <= size_t(kPassReductionBytes));
  constexpr int kWarps = kPassMaxThreads / kWarp;
  const int lane = int(threadIdx.x) % kWarp;
  const auto add = [&](auto lanes) {
    if constexpr (kPeak) mine.peak = warp_peak(mine.peak);
#pragma unroll
    for (int mask = decltype(lanes)::value / 2; mask > 0; mask /= 2) {
#pragma unroll
      for (int j = 0; j < kSums; ++j) mine.sum[j] += shuffle_xor_of(mine.sum[j], mask);
    }
  };
  add(std::integral_constant<int, kWarp>{});
  if (team.warps == 1) return;
  auto* all = reinterpret_cast<Totals<Acc, kSums>*>(slots);
  if (lane == 0) all[int(threadIdx.x) / kWarp] = mine;
  __syncthreads();
  const int other = lane % kWarps;
  mine = all[team.first_warp + (other < team.warps ? other : 0)];
  if (other >= team.warps) {
#pragma unroll
    for (int j = 0; j < kSums; ++j) mine.sum[j] = Acc(0);
  }
  add(std::integral_constant<int, kWarps>{});
}

// One map per team. `load(cell)` gives the map's value, `emit(cell, d loss / d map before ReLU)`
// takes a cell's gradient, 0 for an invalid pair. Teams without a pair (`active` false) take part
// in the barriers, and emit zeros if they have a place for them (`emits`). A thread comes back to
// its own cells only: `map` and `slopes` ([P], shared) keep what it knows of them. `slopes` holds
// the region when it comes in. `weight` may be null. kThreads: of the block.
template <int kThreads, class Loss, class Acc, class Load, class Emit>
FASTCAM_DEVICE PairLoss<Acc> finish_in_team(const Loss& loss, const Team& team, bool active,
                                            bool emits, Acc* map, Acc* slopes, const Acc* weight,
                                            int cells, int width, Acc max_pull, char* scratch,
                                            const Load& load, const Emit& emit) {
  const int stride = team.warps * kWarp;
  const int begin = active ? team.member : cells;
  constexpr int kSlots = pass_reduction_bytes(kThreads);
  Totals<Acc, 1> area{{Acc(0), INT32_MAX}, {Acc(0)}};
#pragma unroll 1
  for (int q = begin; q < cells; q += stride) {
    const Acc r = relu(load(q));
    map[q] = r;
    area.peak = higher_peak(area.peak, Peak<Acc>{r, q});
    area.sum[0] += weight == nullptr ? slopes[q] : weight[q] * slopes[q];
  }
  add_team<true>(team, scratch, area);

  const Acc peak = area.peak.value;
  const Acc divisor = map_divisor(peak);
  const auto cell_at = [&](int q, Acc x) {
    return Cell<Acc>{x, slopes[q], weight == nullptr ? Acc(1) : weight[q], Acc(q / width),
                     Acc(q % width)};
  };
  Totals<Acc, Loss::kSums> terms{};
#pragma unroll 1
  for (int q = begin; q < cells; q += stride) {
    const Acc r = map[q];
    const Acc x = r / divisor;
    map[q] = r <= Acc(0) ? Acc(-1) : x;  // whether the ReLU passes it is kept, too
    add_terms(loss, cell_at(q, x), terms.sum);
  }
  add_team<false>(team, scratch + kSlots, terms);
  Acc derivative[Loss::kSums];
  // An area of NaN is not empty: the loss becomes NaN.
  const PairLoss<Acc> result =
      loss_of_sums(loss, active && area.sum[0] != Acc(0), terms.sum, peak, derivative);

  Totals<Acc, kSlopeSums> pull{};
#pragma unroll 1
  for (int q = begin; q < cells; q += stride) {
    const Acc x = relu(map[q]);
    const Acc slope = loss.slope(cell_at(q, x), derivative);
    slopes[q] = slope;
    add_slope(slope, x, pull.sum);
  }
  add_team<false>(team, scratch + 2 * kSlots, pull);
  const Acc cut = gradient_cut(pull.sum[1], max_pull);
#pragma unroll 1
  for (int q = emits ? team.member : cells; q < cells; q += stride) {
    Acc gradient = Acc(0);
    if (result.status != 0) {
      const Acc passes = map[q] < Acc(0) ? Acc(0) : Acc(1);
      gradient = cut * map_gradient(passes, slopes[q], pull.sum[0], q == area.peak.cell, divisor);
    }
    emit(q, gradient);
  }
  return result;
}

}  // namespace fastcam
