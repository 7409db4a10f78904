// A finished map -> its loss and the gradient of the loss in the map, by one warp, with shuffles
// alone. A lane has every 32nd cell.
#pragma once

#include "common/losses.h"
#include "cuda/device.cuh"
#include "cuda/onepass/plan.h"

namespace fastcam {

template <class Acc>
struct PairLoss {
  Acc value;
  uint8_t status;  // 0: no region, or the loss is not defined
};

// `emit(cell, d loss / d map before ReLU)` is called for every cell of a valid pair. `weight` may
// be null.
template <class Loss, class Acc, class Emit>
FASTCAM_DEVICE PairLoss<Acc> finish_in_warp(const Loss& loss, const Acc* map, const Acc* region,
                                            const Acc* weight, int cells, int width, Acc max_pull,
                                            const Emit& emit) {
  constexpr int kCells = kPassCellsPerLane;
  const int lane = int(threadIdx.x) % kWarp;
  struct First {
    Peak<Acc> peak;
    Acc area;
  };
  const auto cell_at = [&](int q, Acc x) {
    return Cell<Acc>{x, region[q], weight == nullptr ? Acc(1) : weight[q], q / width, q % width};
  };

  First first{{Acc(-1), INT32_MAX}, Acc(0)};
  Acc r[kCells];
#pragma unroll
  for (int k = 0; k < kCells; ++k) {
    const int q = lane + kWarp * k;
    r[k] = Acc(0);
    if (q < cells) {
      r[k] = relu(map[q]);
      first.peak = higher_peak(first.peak, Peak<Acc>{r[k], q});
      first.area += weight == nullptr ? region[q] : weight[q] * region[q];
    }
  }
  first = subwarp_reduce(first, kWarp, [](const First& a, const First& b) {
    return First{higher_peak(a.peak, b.peak), a.area + b.area};
  });
  PairLoss<Acc> result{Acc(0), 0};
  if (first.area == Acc(0)) return result;  // NaN is not empty: the loss becomes NaN

  const Acc divisor = map_divisor(first.peak.value);
  struct Terms {
    Acc value[Loss::kSums];
  };
  Terms sum{};
  Acc slope[kCells];  // first x
#pragma unroll
  for (int k = 0; k < kCells; ++k) {
    const int q = lane + kWarp * k;
    slope[k] = r[k] / divisor;
    if (q < cells) {
      Acc term[Loss::kSums];
      loss.terms(cell_at(q, slope[k]), term);
#pragma unroll
      for (int j = 0; j < Loss::kSums; ++j) sum.value[j] += term[j];
    }
  }
  sum = subwarp_reduce(sum, kWarp, [](Terms a, const Terms& b) {
#pragma unroll
    for (int j = 0; j < Loss::kSums; ++j) a.value[j] += b.value[j];
    return a;
  });
  if (!loss.defined(sum.value)) return result;
  Acc derivative[Loss::kSums];
  result.value = loss.combine(sum.value, derivative);
  result.status = uint8_t(kStatusValid | (first.peak.value == Acc(0) ? kStatusDead : 0));

  struct SlopeSums {
    Acc slope_dot_x, magnitude;
  };
  SlopeSums slope_sums{Acc(0), Acc(0)};
#pragma unroll
  for (int k = 0; k < kCells; ++k) {
    const int q = lane + kWarp * k;
    if (q < cells) {
      const Acc x = slope[k];
      slope[k] = loss.slope(cell_at(q, x), derivative);
      slope_sums.slope_dot_x += slope[k] * x;
      slope_sums.magnitude += abs_(slope[k]);
    }
  }
  slope_sums = subwarp_reduce(slope_sums, kWarp, [](const SlopeSums& a, const SlopeSums& b) {
    return SlopeSums{a.slope_dot_x + b.slope_dot_x, a.magnitude + b.magnitude};
  });
  const Acc cut = gradient_cut(slope_sums.magnitude, max_pull);
#pragma unroll
  for (int k = 0; k < kCells; ++k) {
    const int q = lane + kWarp * k;
    if (q < cells) {
      emit(q, cut * map_gradient(r[k], slope[k], slope_sums.slope_dot_x, q == first.peak.cell,
                                 divisor));
    }
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
