// The losses of the map on the CPU, for the instruction set FASTCAM_ISA: O(P) scalar work once a
// pair's map is there.
#pragma once

#include "cpu/kernels/cam_maps.h"

namespace fastcam::FASTCAM_ISA {

// Steps 3 to 5 of one valid pair, and d loss / d (map before ReLU) into `grad_map`.
template <class Acc, class Loss>
FASTCAM_INLINE uint8_t loss_of_map(const Loss& loss, Acc* map, const Acc* region, const Acc* weight,
                                   int64_t cells, int width, Acc max_pull, Acc* grad_map,
                                   Acc* result) {
  const Peak<Acc> peak = rectify(map, cells);
  const Acc divisor = map_divisor(peak.value);
  const auto each_cell = [&](const auto& visit) FASTCAM_INLINE_LAMBDA {
    for (int64_t p = 0, row = 0; p < cells; ++row) {
      for (int column = 0; column < width; ++column, ++p) {
        visit(p, Cell<Acc>{map[p] / divisor, region[p], weight ? weight[p] : Acc(1), int(row),
                           column});
      }
    }
  };
  Acc sum[Loss::kSums] = {};
  each_cell([&](int64_t, const Cell<Acc>& cell) FASTCAM_INLINE_LAMBDA {
    Acc term[Loss::kSums];
    loss.terms(cell, term);
    for (int j = 0; j < Loss::kSums; ++j) sum[j] += term[j];
  });
  if (!loss.defined(sum)) {
    *result = 0;
    std::memset(grad_map, 0, size_t(cells) * sizeof(Acc));
    return 0;
  }
  Acc derivative[Loss::kSums];
  *result = loss.combine(sum, derivative);
  Acc pull = 0;
  Acc slopes = 0;
  each_cell([&](int64_t p, const Cell<Acc>& cell) FASTCAM_INLINE_LAMBDA {
    grad_map[p] = loss.slope(cell, derivative);
    pull += grad_map[p] * cell.x;
    slopes += abs_(grad_map[p]);
  });
  const Acc cut = pull_cut(slopes, max_pull);
  for (int64_t p = 0; p < cells; ++p) {
    grad_map[p] = cut * map_gradient(map[p], grad_map[p], pull, p == peak.cell, divisor);
  }
  return kStatusValid | (peak.value == Acc(0) ? kStatusDead : 0);
}

template <class Acc>
FASTCAM_INLINE bool region_is_empty(const Acc* region, const Acc* weight, int64_t cells) {
  Acc total = 0;
  for (int64_t p = 0; p < cells; ++p) total += weight ? weight[p] * region[p] : region[p];
  return total == Acc(0);  // NaN is not empty: the loss becomes NaN
}

template <class Acc, class SA, class SD, class Loss>
void cam_loss_forward(const CamLossForward& op, const Loss& loss, int64_t begin, int64_t end,
                      void* scratch) {
  const CamInputs& in = op.in;
  const int64_t P = in.cells;
  Acc* maps = static_cast<Acc*>(scratch);
  Acc* losses = static_cast<Acc*>(op.loss);
  const auto region = [&](int64_t n, int64_t t) {
    return static_cast<const Acc*>(op.regions) + n * op.regions_stride_n + t * op.regions_stride_t;
  };
  const auto weight = [&](int64_t n, int64_t t) -> const Acc* {
    if (op.cell_weights == nullptr) return nullptr;
    return static_cast<const Acc*>(op.cell_weights) + n * op.cell_weights_stride_n +
           t * op.cell_weights_stride_t;
  };
  const auto grad_map = [&](int64_t pair) { return static_cast<Acc*>(op.grad_map) + pair * P; };
  for (int64_t n = begin; n < end; ++n) {
    int64_t block[kTargetBlock];
    int count = 0;
    const auto flush = [&] {
      if (count == 0) return;
      raw_maps<Acc, SA, SD>(in, n, block, count, static_cast<Acc*>(op.alpha), maps);
      for (int i = 0; i < count; ++i) {
        const int64_t pair = n * in.targets + block[i];
        op.status[pair] =
            loss_of_map(loss, maps + i * padded<Acc>(P), region(n, block[i]), weight(n, block[i]),
                        P, op.params.cols, Acc(op.max_pull), grad_map(pair), losses + pair);
        if (op.status[pair] == 0) {
          std::memset(static_cast<Acc*>(op.alpha) + pair * in.channels, 0,
                      size_t(in.channels) * sizeof(Acc));
        }
      }
      count = 0;
    };
    for (int64_t t = 0; t < in.targets; ++t) {
      const int64_t pair = n * in.targets + t;
      const bool off = op.where && op.where[n * op.where_stride_n + t * op.where_stride_t] == 0;
      if (off || region_is_empty(region(n, t), weight(n, t), P)) {
        op.status[pair] = 0;
        losses[pair] = 0;
        std::memset(grad_map(pair), 0, size_t(P) * sizeof(Acc));
        std::memset(static_cast<Acc*>(op.alpha) + pair * in.channels, 0,
                    size_t(in.channels) * sizeof(Acc));
        continue;
      }
      block[count++] = t;
      if (count == kTargetBlock) flush();
    }
    flush();
  }
}

template <class Acc, class SA, class SD>
void cam_iou_forward(const CamLossForward& op, int64_t begin, int64_t end, void* scratch) {
  visit_loss<Acc>(op.kind, op.params, [&](const auto& loss) {
    cam_loss_forward<Acc, SA, SD>(op, loss, begin, end, scratch);
  });
}

}  // namespace fastcam::FASTCAM_ISA
