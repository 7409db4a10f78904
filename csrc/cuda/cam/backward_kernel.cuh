// Backward of grad_cam and of every loss of the map, in one launch, from G[n,t,p] = scale[n,t]
// grad_map[n,t,p]:
//   grad_gradients[n,t,c]   = sum_p G[n,t,p] A[n,c,p] / P     reads A once
//   grad_activations[n,c,p] = sum_t G[n,t,p] alpha[n,t,c]     does not need A, written once
// The two share nothing, so that some blocks do the one and some the other.
#pragma once

#include "cuda/cam/forward_kernel.cuh"

namespace fastcam {

struct BackwardWork {
  CamPlan plan;
  bool need_activations;
};

template <class S, int kTargets>
int backward_scratch(int threads) {
  constexpr int kVector = kVectorOf<S>;
  return std::max(column_sums_scratch<kVector>(threads),
                  row_sums_scratch<kVector, kTargets, kRowUnroll<kTargets>>(threads));
}

// Is the pair valid, and what its map gradient is scaled by.
template <class Acc>
struct PairScale {
  const CamBackward* op;
  int n;
  int t0;

  FASTCAM_DEVICE bool valid(int t) const {
    return op->status == nullptr ||
           (load(op->status + n * op->targets + t0 + t) & kStatusValid) != 0;
  }
  FASTCAM_DEVICE Acc operator()(int t) const {
    if (!valid(t)) return Acc(0);
    return op->scale == nullptr ? Acc(1)
                                : load(static_cast<const Acc*>(op->scale) + n * op->scale_stride_n +
                                       (t0 + t) * op->scale_stride_t);
  }
};

template <class S, int kTargets>
__global__ void FASTCAM_BOUNDS(S, kTargets)
    cam_backward_kernel(const CamBackward op, const BackwardWork work) {
  using Acc = AccOf<S>;
  constexpr int kVector = kVectorOf<S>;
  const CamPlan& plan = work.plan;
  const int thread = int(threadIdx.x);
  const int threads = int(blockDim.x);
  const int cells = int(op.cells);

  // blockIdx: roles fastest, then channel blocks, then samples.
  const int roles = plan.target_blocks + (work.need_activations ? 1 : 0);
  const int role = int(blockIdx.x) % roles;
  const int rest = int(blockIdx.x) / roles;
  const int n = rest / plan.splits;
  const int channel = (rest - n * plan.splits) * plan.chunk;
  const int count = op.channels - channel < plan.chunk ? int(op.channels) - channel : plan.chunk;
  const bool sums = role < plan.target_blocks;
  const int t0 = sums ? role * kTargets : 0;
  const int all = int(op.targets);
  const int targets = sums && all - t0 < kTargets ? all - t0 : (sums ? kTargets : all);

  char* shared = static_cast<char*>(shared_memory());
  Acc* scratch = reinterpret_cast<Acc*>(shared + kReservedBytes);
  Acc* per_channel = scratch + plan.scratch_values;       // [kTargets, chunk]
  Acc* shared_map = per_channel + kTargets * plan.chunk;  // [kTargets, P] if it fits
  const bool channels_last = op.activations_channels_last || cells == 1;

  const PairScale<Acc> scale{&op, n, t0};
  Factors<const Acc> grad_map{static_cast<const Acc*>(op.grad_map) + (n * op.targets + t0) * cells,
                              cells, targets};
  // What all threads share goes through shared memory. Many targets whose rows do not fit (only
  // where A's gradient is written) are read from the input each time, through the caches.
  const bool many = kTargets > 1 && targets > kTargets;
  if (!many && plan.map_shared) {
#pragma unroll 1
    for (int i = thread; i < targets * cells; i += threads) shared_map[i] = load(grad_map.data + i);
    grad_map.data = shared_map;
  }

  if (sums) {
    bool any = false;
#pragma unroll 1
    for (int t = 0; t < targets; ++t) any = any || scale.valid(t);
    __syncthreads();
    if (any) {
      const S* sample = static_cast<const S*>(op.activations) + n * op.activations_stride_n;
      const Matrix<const S> a =
          channel_block(sample, channels_last, int(op.channels), cells, channel, count);
      const Factors<Acc> to{per_channel, plan.chunk, targets};
      sums_of<kTargets>(a, channels_last, grad_map, to, scratch);
    }
    Acc* out = static_cast<Acc*>(op.grad_gradients) + (n * op.targets + t0) * op.channels + channel;
#pragma unroll 1
    for (int t = 0; t < targets; ++t) {
      const bool wanted = scale.valid(t);
      const Acc times = scale(t);
#pragma unroll 1
      for (int c = thread; c < count; c += threads) {
        // Not a product with 0: an invalid pair's gradient is 0 whatever A holds.
        store(out + t * op.channels + c,
              wanted ? times * per_channel[t * plan.chunk + c] / Acc(cells) : Acc(0));
      }
    }
  } else {
    Factors<const Acc> alpha{static_cast<const Acc*>(op.alpha) + n * op.targets * op.channels +
                                 channel,
                             int(op.channels), targets};
    if (many ? plan.many_shared : plan.map_shared) {
      Acc* rows = many ? scratch : per_channel;  // [targets, chunk]
#pragma unroll 1
      for (int t = 0; t < targets; ++t) {
#pragma unroll 1
        for (int c = thread; c < count; c += threads) {
          rows[t * plan.chunk + c] = load(alpha.data + t * op.channels + c);
        }
      }
      alpha.data = rows;
      alpha.stride = plan.chunk;
      if (many) {
        Acc* maps = rows + targets * plan.chunk;  // [targets, P], scaled
#pragma unroll 1
        for (int t = 0; t < targets; ++t) {
          const Acc times = scale(t);
#pragma unroll 1
          for (int p = thread; p < cells; p += threads) {
            maps[t * cells + p] = times * load(grad_map.data + t * cells + p);
          }
        }
        grad_map.data = maps;
      }
    }
    __syncthreads();
    S* sample = static_cast<S*>(op.grad_activations) + n * op.channels * op.cells;
    const Matrix<S> da =
        channel_block(sample, channels_last, int(op.channels), cells, channel, count);
    const auto times = [&](int t) { return plan.many_shared ? Acc(1) : scale(t); };
    const auto write = [&](const Factors<const Acc>& rows, const Factors<const Acc>& columns) {
      const bool vectors = walks_in_vectors<kVector>(da);
      if (many && vectors) {
        outer_product_of_many<kVector>(da, rows, columns, times);
      } else if (many) {
        outer_product_of_many<1>(da, rows, columns, times);
      } else if (vectors) {
        outer_product<kVector, kTargets>(da, rows, columns, scale);
      } else {
        outer_product<1, kTargets>(da, rows, columns, scale);
      }
    };
    if (channels_last) {
      write(grad_map, alpha);
    } else {
      write(alpha, grad_map);
    }
  }
}

}  // namespace fastcam
