// The losses of the map and all their gradients on the CPU, for the instruction set FASTCAM_ISA.
#pragma once

#include "common/pairs.h"
#include "cpu/kernels/cam_backward.h"
#include "cpu/kernels/cam_maps.h"
#include "cpu/simd/row.h"

namespace fastcam::FASTCAM_ISA {

// Steps 3 to 5 of one pair with a region, and d loss / d (map before ReLU) into `grad_map`, if the
// loss is defined. `map` is a padded row.
template <class Acc, class Loss>
FASTCAM_INLINE PairLoss<Acc> loss_of_map(const Loss& loss, Acc* map, const Acc* region,
                                         const Acc* weight, int64_t cells, int width, Acc max_pull,
                                         Acc* grad_map) {
  using V = Vec<Acc>;
  const Row<Acc> row(cells);
  const Peak<Acc> peak = rectify(map, cells);
  const Acc divisor = map_divisor(peak.value);
  const auto cells_at = [&](int64_t p, const auto& how) FASTCAM_INLINE_LAMBDA {
    Cell<V> cell;
    cell.x = how.template read<Acc>(map + p) / divisor;
    cell.s = how.template read<Acc>(region + p);
    cell.w = weight ? how.template read<Acc>(weight + p) : splat(Acc(1));
    int at_row = int(p) / width;
    int at_col = int(p) % width;
    for (int i = 0; i < kLanes<Acc>; ++i) {
      cell.row[i] = Acc(at_row);
      cell.col[i] = Acc(at_col);
      const bool ends = ++at_col == width;
      at_row += ends;
      at_col = ends ? 0 : at_col;
    }
    return cell;
  };

  V sums[Loss::kSums] = {};
  row.each([&](int64_t p, int64_t, const auto& how) FASTCAM_INLINE_LAMBDA {
    V term[Loss::kSums];
    loss.terms(cells_at(p, how), term);
    for (int j = 0; j < Loss::kSums; ++j) sums[j] += how.template once<Acc>(term[j]);
  });
  Acc sum[Loss::kSums];
  for (int j = 0; j < Loss::kSums; ++j) sum[j] = horizontal_sum<Acc>(sums[j]);
  Acc derivative[Loss::kSums];
  const PairLoss<Acc> result = loss_of_sums(loss, true, sum, peak.value, derivative);
  if (result.status == 0) return result;

  V pulls[kSlopeSums] = {};
  row.each([&](int64_t p, int64_t, const auto& how) FASTCAM_INLINE_LAMBDA {
    const Cell<V> cell = cells_at(p, how);
    const V slope = loss.slope(cell, derivative);
    how.template write<Acc>(grad_map + p, slope);
    add_slope(how.template once<Acc>(slope), how.template once<Acc>(cell.x), pulls);
  });
  const Acc pull = horizontal_sum<Acc>(pulls[0]);
  const Acc cut = gradient_cut(horizontal_sum<Acc>(pulls[1]), max_pull);
  row.each([&](int64_t p, int64_t, const auto& how) FASTCAM_INLINE_LAMBDA {
    const auto is_peak = lane_numbers<Acc>() == IntOf<Acc>(peak.cell - p);
    const V slope = how.template read<Acc>(grad_map + p);
    const V gradient =
        cut * map_gradient(how.template read<Acc>(map + p), slope, pull, is_peak, divisor);
    how.template write<Acc>(grad_map + p, how.template beside<Acc>(slope, gradient));
  });
  return result;
}

template <class Acc>
FASTCAM_INLINE bool region_is_empty(const Acc* region, const Acc* weight, int64_t cells) {
  Vec<Acc> total{};
  Row<Acc>(cells).each([&](int64_t p, int64_t, const auto& how) FASTCAM_INLINE_LAMBDA {
    const Vec<Acc> share = how.template read<Acc>(region + p);
    total += how.template once<Acc>(weight ? how.template read<Acc>(weight + p) * share : share);
  });
  return horizontal_sum<Acc>(total) == Acc(0);  // NaN is not empty: the loss becomes NaN
}

// The per-cell arguments of a pair.
template <class Acc>
struct PairCells {
  const CamLoss& op;

  FASTCAM_INLINE const Acc* region(int64_t n, int64_t t) const { return op.regions.of<Acc>(n, t); }
  FASTCAM_INLINE const Acc* weight(int64_t n, int64_t t) const {
    return op.cell_weights.data == nullptr ? nullptr : op.cell_weights.of<Acc>(n, t);
  }
  FASTCAM_INLINE bool on(int64_t n, int64_t t) const {
    if (op.where.data && *op.where.of<uint8_t>(n, t) == 0) return false;
    return !region_is_empty(region(n, t), weight(n, t), op.in.cells);
  }
};

// Steps 1 and 2 of one sample's pairs that are on, for the channels of `range`; row t of `maps`.
template <class Acc, class SA, class SD>
FASTCAM_INLINE void maps_of_sample(const CamLoss& op, int64_t n, ChannelRange range, Acc* maps) {
  const PairCells<Acc> cells{op};
  int64_t block[kTargetBlock];
  int count = 0;
  const auto flush = [&] {
    if (count == 0) return;
    raw_maps<Acc, SA, SD>(op.in, n, block, count, range, static_cast<Acc*>(op.alpha), maps);
    count = 0;
  };
  for (int64_t t = 0; t < op.in.targets; ++t) {
    if (!cells.on(n, t)) continue;
    block[count++] = t;
    if (count == kTargetBlock) flush();
  }
  flush();
}

// Steps 3 to 5 of one sample's pairs, for one loss.
template <class Acc, class Loss>
FASTCAM_INLINE void pairs_of_sample(const CamLoss& op, const Loss& loss, int64_t n, Acc* maps) {
  const PairCells<Acc> cells{op};
  const int64_t P = op.in.cells;
  for (int64_t t = 0; t < op.in.targets; ++t) {
    const int64_t pair = n * op.in.targets + t;
    Acc* grad_map = static_cast<Acc*>(op.grad_map) + pair * P;
    PairLoss<Acc> result{0, 0};
    if (cells.on(n, t)) {
      result = loss_of_map(loss, maps + t * padded<Acc>(P), cells.region(n, t), cells.weight(n, t),
                           P, op.params.cols, Acc(op.max_pull), grad_map);
    }
    static_cast<Acc*>(op.loss)[pair] = result.value;
    op.status[pair] = result.status;
    if (result.status == 0) {
      std::memset(grad_map, 0, size_t(P) * sizeof(Acc));
      std::memset(static_cast<Acc*>(op.alpha) + pair * op.in.channels, 0,
                  size_t(op.in.channels) * sizeof(Acc));
    }
  }
}

// The same for the loss that the call names. Compiled once for each arithmetic type: walking the
// cells of a map costs nothing beside making it, so that the storage types share it.
template <class Acc>
void losses_of_sample(const CamLoss& op, int64_t n, Acc* maps) {
  visit_loss<Acc>(op.kind, op.params,
                  [&](const auto& loss) { pairs_of_sample(op, loss, n, maps); });
}

// Half of a small second-level cache.
inline constexpr int64_t kRoomForTwo = 256 << 10;

// All of it, sample by sample: what d loss / d D needs of A is read while A is still in the cache.
template <class Acc, class SA, class SD>
void cam_loss_forward(const CamLossForward& op, int64_t begin, int64_t end, void* scratch) {
  Acc* maps = static_cast<Acc*>(scratch);
  const CamInputs& in = op.loss.in;
  const CamBackward sums = sums_of_gradients(op);
  // A is in the second-level cache when it is read again; the next sample's is fetched meanwhile,
  // if there is room for both.
  const int64_t bytes = in.channels * in.cells * int64_t(sizeof(SA));
  const int64_t ahead =
      bytes <= kRoomForTwo ? in.activations_stride_n * int64_t(sizeof(SA)) : kPrefetchBytes;
  for (int64_t n = begin; n < end; ++n) {
    maps_of_sample<Acc, SA, SD>(op.loss, n, {0, in.channels}, maps);
    losses_of_sample(op.loss, n, maps);
    if (op.grad_gradients != nullptr) cam_backward<Acc, SA>(sums, 1, n, n + 1, scratch, ahead);
  }
}

// The same in two steps, for samples whose channels are shared by several threads: each block's
// maps are rows [n, block, t] of `parts`.
template <class Acc, class SA, class SD>
void cam_loss_maps(const CamLoss& op, int64_t blocks, int64_t begin, int64_t end, void* parts) {
  const int64_t size = op.in.targets * padded<Acc>(op.in.cells);
  for (int64_t item = begin; item < end; ++item) {
    maps_of_sample<Acc, SA, SD>(op, item / blocks,
                                channel_range<Acc>(op.in.channels, blocks, item % blocks),
                                static_cast<Acc*>(parts) + item * size);
  }
}

template <class Acc>
void cam_loss_values(const CamLoss& op, int64_t blocks, int64_t begin, int64_t end, void* parts) {
  const int64_t row = padded<Acc>(op.in.cells);
  const int64_t size = op.in.targets * row;
  const PairCells<Acc> cells{op};
  for (int64_t n = begin; n < end; ++n) {
    Acc* maps = static_cast<Acc*>(parts) + n * blocks * size;
    for (int64_t t = 0; t < op.in.targets; ++t) {
      if (!cells.on(n, t)) continue;  // there is nothing in its rows
      for (int64_t i = t * row; i < (t + 1) * row; i += kLanes<Acc>) {
        Vec<Acc> sum = load(maps + i);
        for (int64_t block = 1; block < blocks; ++block) sum += load(maps + block * size + i);
        store(maps + i, sum);
      }
    }
    losses_of_sample(op, n, maps);
  }
}

}  // namespace fastcam::FASTCAM_ISA
