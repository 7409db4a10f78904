// The backward of grad_cam in one launch, and the sums of A that every loss of the map needs, from
// G = d loss / d (map before ReLU) of all targets:
//   grad_gradients[n,t,c]   = sum_p G[n,t,p] A[n,c,p] / P     reads A once
//   grad_activations[n,c,p] = sum_t G[n,t,p] alpha[n,t,c]     written once
// A block has some channels of one sample, and makes G of the sample in its shared memory.
#pragma once

#include "common/losses.h"
#include "cuda/cam/matrix.cuh"

namespace fastcam {

// G of one sample's targets. grad_cam's is made of its map and the upstream gradient; a loss has
// stored its own.
template <class Acc>
struct MapGradients {
  const CamBackward* op;
  int n;
  Acc* weighted;  // sum_p grad[t, p] cam[t, p], in shared memory
  int* peaks;     // the cell of the peak

  FASTCAM_DEVICE bool valid(int t) const {
    return op->status == nullptr || (load(op->status + n * op->targets + t) & kStatusValid) != 0;
  }
  FASTCAM_DEVICE int64_t pair(int t) const { return n * op->targets + t; }
  FASTCAM_DEVICE Acc cam(int t, int p) const {
    return load(static_cast<const Acc*>(op->cam) + pair(t) * op->cells + p);
  }
  FASTCAM_DEVICE Acc upstream(int t, int p) const {
    const int cols = int(op->cols);
    // Not PairView::of(): nvcc 13.0 then allocates other registers than those that were measured.
    return load(static_cast<const Acc*>(op->grad.data) + n * op->grad.stride_n +
                t * op->grad.stride_t + (p / cols) * op->grad_stride_h +
                (p % cols) * op->grad_stride_w);
  }

  // Before the first value: a warp has a target.
  FASTCAM_DEVICE void prepare() const {
    if (!op->normalize) return;
    struct Sums {
      Peak<Acc> peak;
      Acc weighted;
    };
    const int lane = int(threadIdx.x) % kWarp;
#pragma unroll 1
    for (int t = int(threadIdx.x) / kWarp; t < int(op->targets); t += int(blockDim.x) / kWarp) {
      Sums sums{{Acc(-1), INT32_MAX}, Acc(0)};
#pragma unroll 2
      for (int p = lane; p < int(op->cells); p += kWarp) {
        const Acc x = cam(t, p);
        sums.peak = higher_peak(sums.peak, Peak<Acc>{x, p});
        sums.weighted += upstream(t, p) * x;
      }
      sums = subwarp_reduce(sums, kWarp, [](const Sums& a, const Sums& b) {
        return Sums{higher_peak(a.peak, b.peak), a.weighted + b.weighted};
      });
      if (lane == 0) {
        weighted[t] = sums.weighted;
        peaks[t] = int(sums.peak.cell);
      }
    }
    __syncthreads();
  }

  FASTCAM_DEVICE Acc operator()(int t, int p) const {
    if (op->cam == nullptr) {
      if (!valid(t)) return Acc(0);
      const Acc value = load(static_cast<const Acc*>(op->grad_map) + pair(t) * op->cells + p);
      return op->scale == nullptr ? value
                                  : value * load(static_cast<const Acc*>(op->scale) + pair(t));
    }
    const Acc x = cam(t, p);
    const Acc slope = upstream(t, p);
    if (!op->normalize) return map_gradient(x, slope, Acc(0), false, Acc(1));
    const Acc divisor = map_divisor(load(static_cast<const Acc*>(op->peak) + pair(t)));
    return map_gradient(x, slope, weighted[t], p == peaks[t], divisor);
  }
};

template <class S, int kTargets>
__global__ void __launch_bounds__(kCamThreads, FASTCAM_CAM_BLOCKS(AccOf<S>, kTargets))
    cam_backward_kernel(const CamBackward op, const CamPlan plan) {
  using Acc = AccOf<S>;
  const int cells = int(op.cells);
  const int channels = int(op.channels);
  const int all = int(op.targets);
  const int n = int(blockIdx.x) / plan.splits;
  const int channel = (int(blockIdx.x) - n * plan.splits) * plan.chunk;
  const int count = channels - channel < plan.chunk ? channels - channel : plan.chunk;
  const bool channels_last = op.activations_channels_last || cells == 1;

  Acc* shared = static_cast<Acc*>(shared_memory());
  Acc* maps = shared + plan.scratch_values;
  Acc* alphas = maps + plan.held * plan.map_stride;
  Acc* sums = alphas + plan.held * plan.alpha_stride;
  const MapGradients<Acc> gradient{&op, n, sums, reinterpret_cast<int*>(sums + all)};
  const Acc* alpha = static_cast<const Acc*>(op.alpha) + gradient.pair(0) * channels + channel;

  const auto cells_at = [&](int p0) { return cells - p0 < plan.tile ? cells - p0 : plan.tile; };
  // The block's part of a tensor like A.
  const auto part = [&](auto* sample, int p0) {
    using M = Matrix<std::remove_pointer_t<decltype(sample)>>;
    return channels_last
               ? M{sample + p0 * int64_t(channels) + channel, cells_at(p0), count, channels}
               : M{sample + int64_t(channel) * cells + p0, count, cells_at(p0), cells};
  };

  // Some targets at a time over a tile of cells: mostly all of them over all cells.
  const int held = plan.held < all ? plan.held : all;
  gradient.prepare();
  if (op.grad_activations != nullptr && held == all) {
    fill_factors(Factors<Acc>{alphas, plan.alpha_stride, all}, count,
                 [&](int t, int c) { return load(alpha + int64_t(t) * channels + c); });
  }
#pragma unroll 1
  for (int t0 = 0; t0 < all; t0 += held) {
    const int here = all - t0 < held ? all - t0 : held;
#pragma unroll 1
    for (int p0 = 0; p0 < cells; p0 += plan.tile) {
      __syncthreads();
      const Factors<Acc> map{maps, plan.map_stride, here};
      fill_factors(map, cells_at(p0), [&](int t, int p) { return gradient(t0 + t, p0 + p); });
      __syncthreads();
#pragma unroll 1
      for (int t1 = 0; t1 < here && op.grad_gradients != nullptr; t1 += kTargets) {
        const int targets = here - t1 < kTargets ? here - t1 : kTargets;
        const auto put = [&](int t, int c, Acc total) {
          t += t0 + t1;
          Acc* out =
              static_cast<Acc*>(op.grad_gradients) + gradient.pair(t) * channels + channel + c;
          // Not a product with 0: an invalid pair's gradient is 0 whatever A holds.
          const Acc share = gradient.valid(t) ? total / Acc(cells) : Acc(0);
          store_own(out, p0 > 0 ? load_own(out) + share : share);
        };
        sums_of<kTargets>(
            part(static_cast<const S*>(op.activations) + n * op.activations_stride_n, p0),
            channels_last, Factors<const Acc>{map.of(t1), map.stride, targets}, targets, shared,
            put);
      }
      if (op.grad_activations != nullptr && held == all) {
        // (Chosen value by value: a choice between two structs would put both into local memory.)
        outer_product<kTargets>(
            part(static_cast<S*>(op.grad_activations) + n * op.channels * op.cells, p0),
            Factors<const Acc>{channels_last ? maps : alphas,
                               channels_last ? plan.map_stride : plan.alpha_stride, all},
            Factors<const Acc>{channels_last ? alphas : maps,
                               channels_last ? plan.alpha_stride : plan.map_stride, all});
      }
    }
  }
  if (op.grad_activations != nullptr && held < all) {  // hundreds of targets
    const Matrix<S> da = part(static_cast<S*>(op.grad_activations) + n * op.channels * op.cells, 0);
#pragma unroll 1
    for (int i = int(threadIdx.x); i < count * cells; i += int(blockDim.x)) {
      const int c = channels_last ? i % count : i / cells;
      const int p = channels_last ? i / count : i % cells;
      Acc sum = Acc(0);
#pragma unroll 1
      for (int t = 0; t < all; ++t) {
        sum += load(alpha + int64_t(t) * channels + c) * gradient(t, p);
      }
      store(da.data + (channels_last ? p * da.pitch + c : i), from_acc<S>(sum));
    }
  }
}

}  // namespace fastcam
