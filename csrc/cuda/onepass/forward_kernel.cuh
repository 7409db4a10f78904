// A loss of the map and all its gradients in one pass over A and D, for sm_90 and later.
//
// A cluster of blocks takes a sample; each block holds some channels of A in its shared memory and,
// for kTargets targets at a time,
//   1. alpha[t, c] = sum_q D[t, c, q] / P, straight from global memory while A is being copied
//   2. its part of the maps, sum_c alpha[t, c] A[c, p]
//   3. the maps: the blocks' parts in the order of the blocks, read from each other's shared memory
//   4. loss, status and grad_map = d loss / d map, a warp a target
//   5. d loss / d D = sum_p grad_map[t, p] A[c, p] / P, from the A that is still there
// The last cluster of the launch sums up the losses.
#pragma once

#include "cuda/onepass/finish.cuh"
#include "cuda/onepass/sums.cuh"

namespace fastcam {

struct PassWork {
  PassPlan plan;
  bool gradients_in_acc;  // D has the arithmetic dtype, A has not
  unsigned* ticket;       // one zero, if there are several samples to sum up
};

#if defined(FASTCAM_HAS_CLUSTERS)

// The copy of this block's part of A into shared memory.
template <class S>
struct MatrixCopy {
  const PassPlan* plan;
  CopyBarrier* barrier;
  char* to;
  const S* from;  // the block's first value
  int rows, cols;
  int64_t from_pitch;  // from row to row

  // In a run, shared memory has the bytes at the same places within 16 as global memory.
  FASTCAM_DEVICE int misalignment() const {
    return plan->run ? int(reinterpret_cast<uintptr_t>(from) % 16) : 0;
  }
  FASTCAM_DEVICE SharedMatrix<S> held() const {
    return {reinterpret_cast<const S*>(to + misalignment()), rows, cols, plan->pitch};
  }

  FASTCAM_DEVICE void start() const {
    const int thread = int(threadIdx.x);
    const int threads = int(blockDim.x);
    S* first = reinterpret_cast<S*>(to + misalignment());
    if (plan->copy == PassCopy::kPlain) {
#pragma unroll 4
      for (int i = thread; i < rows * cols; i += threads) {
        const int r = i / cols;
        const int c = i - r * cols;
        first[r * plan->pitch + c] = load(from + r * from_pitch + c);
      }
      barrier_arrive(barrier);
    } else if (plan->run) {
      const int values = rows * cols;
      const int misplaced = misalignment() / int(sizeof(S));
      int head = misplaced == 0 ? 0 : kVectorOf<S> - misplaced;
      if (head > values) head = values;
      const int body = (values - head) / kVectorOf<S> * kVectorOf<S>;
      const int tail = values - head - body;
      if (thread < head + tail) {
        const int i = thread < head ? thread : thread + body;
        first[i] = load(from + i);
      }
      copy(first + head, from + head, body, 1);
    } else {
      copy(first, from, cols, rows);
    }
  }
  FASTCAM_DEVICE void wait() const { barrier_wait(barrier, 0); }

private:
  // `count` rows of whole vectors, and this thread's arrival.
  FASTCAM_DEVICE void copy(S* target, const S* source, int values, int count) const {
    const int thread = int(threadIdx.x);
    const int threads = int(blockDim.x);
    const uint32_t bytes = uint32_t(values) * uint32_t(sizeof(S));
    const int mine = bytes == 0 || thread >= count ? 0 : (count - thread + threads - 1) / threads;
    if (mine == 0) {
      barrier_arrive(barrier);
      return;
    }
    barrier_arrive_expecting(barrier, bytes * uint32_t(mine));
#pragma unroll 1
    for (int r = thread; r < count; r += threads) {
      bulk_copy(target + r * plan->pitch, source + r * from_pitch, bytes, barrier);
    }
  }
};

// The sample's D from this block's first channel on.
template <class SD>
FASTCAM_DEVICE GradientRows<SD> gradient_rows(const CamInputs& in, int n, int t0, int channel,
                                              int count, unsigned on) {
  const bool channels_last = in.gradients_channels_last || in.grad_cells == 1;
  const SD* data = static_cast<const SD*>(in.gradients) + n * in.gradients_stride_n +
                   t0 * in.gradients_stride_t +
                   int64_t(channel) * (channels_last ? 1 : in.grad_cells);
  return {data, in.gradients_stride_t, int(in.channels), count, int(in.grad_cells), channels_last,
          on};
}

template <class S, int kTargets, class Losses>
FASTCAM_DEVICE void cam_loss_pass(const CamLossForward& pass, const PassWork& work) {
  using Acc = AccOf<S>;
  // Rows or columns of a thread: with two, what is multiplied is read half as often.
  constexpr int kOwn = kTargets > 4 ? 2 : 1;
  const CamLoss& op = pass.loss;
  const CamInputs& in = op.in;
  const PassPlan& plan = work.plan;
  const PassLayout& at = plan.at;
  const int thread = int(threadIdx.x);
  const int threads = int(blockDim.x);
  const int cells = int(in.cells);
  const int channels = int(in.channels);
  const int all = int(in.targets);
  const int ranks = plan.ranks;
  const int rank = cluster_rank();
  const int n = int(blockIdx.x) / ranks;
  const int channel = rank * plan.chunk;
  const int left = channels - channel;
  const int count = left < plan.chunk ? (left > 0 ? left : 0) : plan.chunk;

  char* shared = static_cast<char*>(shared_memory());
  CopyBarrier* barrier = reinterpret_cast<CopyBarrier*>(shared);
  Acc* alpha = reinterpret_cast<Acc*>(shared + at.alpha);
  Acc* part = reinterpret_cast<Acc*>(shared + at.part);
  Acc* maps = reinterpret_cast<Acc*>(shared + at.maps);
  Acc* grad_map = reinterpret_cast<Acc*>(shared + at.grad_map);
  Acc* regions = reinterpret_cast<Acc*>(shared + at.regions);
  Acc* weights = reinterpret_cast<Acc*>(shared + at.weights);
  int* valid = reinterpret_cast<int*>(shared + at.valid);
  Acc* scratch = reinterpret_cast<Acc*>(shared + at.scratch);

  const auto wanted = [&](int t) {
    return op.where == nullptr ||
           load(op.where + n * op.where_stride_n + t * op.where_stride_t) != 0;
  };
  bool any = op.where == nullptr;
#pragma unroll 1
  for (int t = 0; t < all && !any; ++t) any = wanted(t);

  const bool channels_last = in.activations_channels_last;
  const S* sample = static_cast<const S*>(in.activations) + n * in.activations_stride_n;
  const MatrixCopy<S> matrix{&plan,
                             barrier,
                             shared + at.matrix,
                             sample + int64_t(channel) * (channels_last ? 1 : cells),
                             channels_last ? cells : count,
                             channels_last ? count : cells,
                             channels_last ? channels : cells};
  if (any) {
    if (thread == 0) {
      barrier_init(barrier, threads);
      barrier_init_fence();
    }
    __syncthreads();
    matrix.start();
  }
  const SharedMatrix<S> a = matrix.held();

  // Target t of a pass is finished by every block, or by one of them.
  const int owned = plan.share ? (kTargets + ranks - 1) / ranks : kTargets;
  const auto target_of = [&](int i) { return plan.share ? rank + i * ranks : i; };
  const bool writes = plan.share || rank == 0;

#pragma unroll 1
  for (int t0 = 0; t0 < all; t0 += kTargets) {
    const int targets = all - t0 < kTargets ? all - t0 : kTargets;
    const auto pair_of = [&](int t) { return int64_t(n) * all + t0 + t; };
    unsigned on = 0;
#pragma unroll 1
    for (int t = 0; t < targets; ++t) on |= wanted(t0 + t) ? 1u << t : 0u;

    // Regions and weights are copied while the maps are computed.
#pragma unroll 1
    for (int i = 0; i < owned; ++i) {
      const int t = target_of(i);
      if (t >= targets || (on >> t & 1) == 0) continue;
      const Acc* s = static_cast<const Acc*>(op.regions) + n * op.regions_stride_n +
                     (t0 + t) * op.regions_stride_t;
#pragma unroll 1
      for (int p = thread; p < cells; p += threads) copy_later(regions + i * cells + p, s + p);
      if (op.cell_weights != nullptr) {
        const Acc* w = static_cast<const Acc*>(op.cell_weights) + n * op.cell_weights_stride_n +
                       (t0 + t) * op.cell_weights_stride_t;
#pragma unroll 1
        for (int p = thread; p < cells; p += threads) copy_later(weights + i * cells + p, w + p);
      }
    }

    if (any) {
      if (kTargets > 1 && targets < kTargets) {  // the others count as zero
#pragma unroll 1
        for (int i = thread; i < count * kTargets; i += threads) alpha[i] = Acc(0);
        __syncthreads();
      }
      const auto weigh = [&](auto sd) {
        channel_weights<kTargets>(gradient_rows<decltype(sd)>(in, n, t0, channel, count, on),
                                  targets, Acc(cells), alpha, scratch);
      };
      if constexpr (std::is_same_v<S, Acc>) {
        weigh(S{});
      } else if (work.gradients_in_acc) {
        weigh(Acc{});
      } else {
        weigh(S{});
      }
      __syncthreads();

      matrix.wait();
      if (channels_last) {
        sums_along<S, kTargets, kOwn>(a, plan.walk, alpha, part);
      } else {
        sums_down<S, kTargets, kOwn>(a, alpha, part);
      }
    }
    copies_wait();
    cluster_arrive();
    cluster_wait();

    if (any) {
#pragma unroll 1
      for (int i = thread; i < owned * cells; i += threads) {
        const int mine = i / cells;
        const int p = i - mine * cells;
        const int t = target_of(mine);
        if (t >= targets) continue;
        Acc sum = Acc(0);
#pragma unroll 4
        for (int b = 0; b < ranks; ++b) sum += load_of_block(part + t * cells + p, b);
        maps[i] = sum;
      }
    }
    if (!plan.share) cluster_arrive();  // the others may write over their parts
    __syncthreads();

    const int lane = thread % kWarp;
#pragma unroll 1
    for (int i = thread / kWarp; i < owned; i += threads / kWarp) {
      const int t = target_of(i);
      if (t >= kTargets) continue;
      Acc* out = static_cast<Acc*>(op.grad_map) + pair_of(t) * cells;
      const bool real = t < targets;
      const auto emit = [&](int p, Acc value) {
        if (plan.share) {
#pragma unroll 1
          for (int b = 0; b < ranks; ++b) store_in_block(grad_map + p * kTargets + t, b, value);
        } else {
          grad_map[p * kTargets + t] = value;
        }
        if (real && writes) store(out + p, value);
      };
      PairLoss<Acc> result{Acc(0), 0};
      if (real && (on >> t & 1) != 0) {
        Losses::visit(op, [&](const auto& loss) {
          result = finish_in_warp(loss, maps + i * cells, regions + i * cells,
                                  op.cell_weights == nullptr ? nullptr : weights + i * cells, cells,
                                  int(op.params.cols), Acc(op.max_pull), emit);
        });
      }
      if (result.status == 0) {
#pragma unroll 1
        for (int p = lane; p < cells; p += kWarp) emit(p, Acc(0));
      }
      if (lane == 0) {
        if (plan.share) {
#pragma unroll 1
          for (int b = 0; b < ranks; ++b) store_in_block(valid + t, b, int(result.status));
        } else {
          valid[t] = int(result.status);
        }
        if (real && writes) {
          store(static_cast<Acc*>(op.loss) + pair_of(t), result.value);
          store(op.status + pair_of(t), result.status);
        }
      }
    }
    if (plan.share) cluster_arrive();
    cluster_wait();
    __syncthreads();

    // What is invalid is stored as 0, whatever A and D hold.
#pragma unroll 1
    for (int t = 0; t < targets; ++t) {
      Acc* out = static_cast<Acc*>(op.alpha) + pair_of(t) * channels + channel;
#pragma unroll 1
      for (int c = thread; c < count; c += threads) {
        store(out + c, valid[t] != 0 ? alpha[c * kTargets + t] : Acc(0));
      }
    }
    if (pass.grad_gradients != nullptr) {
      if (any) {
        if (channels_last) {
          sums_down<S, kTargets, kOwn>(a, grad_map, part);
        } else {
          sums_along<S, kTargets, kOwn>(a, plan.walk, grad_map, part);
        }
      }
#pragma unroll 1
      for (int t = 0; t < targets; ++t) {
        Acc* out = static_cast<Acc*>(pass.grad_gradients) + pair_of(t) * channels + channel;
#pragma unroll 1
        for (int c = thread; c < count; c += threads) {
          store(out + c, valid[t] != 0 ? part[t * count + c] / Acc(cells) : Acc(0));
        }
      }
    }
    __syncthreads();  // before the next targets
  }

  if (pass.reduction != Reduction::kNone && rank == 0) {
    unsigned* flag = reinterpret_cast<unsigned*>(valid);
    if (in.batch == 1 || last_block(work.ticket, unsigned(in.batch), flag)) {
      reduce_pairs<Acc>(pass, scratch);
    }
  }
}

#endif  // FASTCAM_HAS_CLUSTERS

// Chips after Hopper need more registers for the same code.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
#define FASTCAM_PASS_BLOCKS(Acc, kTargets) 2
#else
#define FASTCAM_PASS_BLOCKS(Acc, kTargets) (kPassBlocks<Acc, kTargets>)
#endif

template <class S, int kTargets, class Losses>
__global__ void __launch_bounds__((kPassThreads<AccOf<S>, kTargets>),
                                  FASTCAM_PASS_BLOCKS(AccOf<S>, kTargets))
    cam_loss_pass_kernel(const CamLossForward pass, const PassWork work) {
#if defined(FASTCAM_HAS_CLUSTERS)
  cam_loss_pass<S, kTargets, Losses>(pass, work);
#endif
}

}  // namespace fastcam
