// A loss of the map and all its gradients in one pass over A and D, for sm_90 and later.
//
// A cluster of blocks takes a sample; each block holds some channels of A in its shared memory and,
// for kTargets targets at a time,
//   1. alpha[t, c] = sum_q D[t, c, q] / P, D in shared memory for a moment, while A is on its way
//      (or before it, in its place: plan.ring)
//   2. its part of the maps, sum_c alpha[t, c] A[c, p]
//   3. the maps: the blocks' parts in the order of the blocks, read from each other's shared
//      memory; and of them loss, status and grad_map = d loss / d map, a team of warps a target
//   4. d loss / d D = sum_p grad_map[t, p] A[c, p] / P, from the A that is still there
// The last cluster of the launch sums up the losses.
#pragma once

#include "cuda/onepass/copy.cuh"
#include "cuda/onepass/finish.cuh"
#include "cuda/onepass/sums.cuh"
#include "cuda/pairs.cuh"

namespace fastcam {

struct PassWork {
  PassPlan plan;
  bool gradients_in_acc;  // D has the arithmetic dtype, A has not
  unsigned* ticket;       // zero before and after, if there are several samples to sum up
};

#if defined(FASTCAM_HAS_CLUSTERS)

// alpha[c, t] of the block's channels, for kTargets targets: copies of D, of which
// 1 << plan.log2_stages are on their way at once, and the sums over their cells.
template <class SD, int kTargets, class Acc>
struct ChannelWeights {
  const CamInputs& in;
  const PassPlan& plan;
  CopyBarrier* barriers;  // [stages]
  char* stages;
  int n, t0, channel, count;
  const int* on;  // [kTargets]

  FASTCAM_DEVICE int stages_at_once() const { return kTargets == 1 ? 1 : 1 << plan.log2_stages; }
  FASTCAM_DEVICE MatrixCopy<SD> copy(int t) const {
    const bool last = in.gradients_channels_last;
    const int cells = int(in.grad_cells);
    const SD* from = in.gradients.of<SD>(n, t0 + t) + int64_t(channel) * (last ? 1 : cells);
    const int stage = t & (stages_at_once() - 1);
    const int rows = last ? cells : count;
    return {plan.d,
            barriers + stage,
            stages + stage * plan.at.stage,
            from,
            on[t] != 0 ? rows : 0,  // nothing to copy: the barrier is passed all the same
            last ? count : cells,
            last ? in.channels : cells};
  }

  // What a block reads of a target is one run of whole vectors where rows adjoin, which is the
  // rule. Then one thread copies, and the others have nothing to do.
  FASTCAM_DEVICE void start(int t, int targets) const {
#pragma unroll 1
    for (int i = 0; i < targets; ++i) {
      if (!plan.rows_adjoin) {
        copy(t + i).start();
      } else if (threadIdx.x == 0) {
        const MatrixCopy<SD> d = copy(t + i);
        const uint32_t bytes = uint32_t(d.rows * d.cols) * uint32_t(sizeof(SD));
        barrier_arrive_expecting(d.barrier, bytes);
        if (bytes > 0) bulk_copy(d.to, d.from, bytes, d.barrier);
      }
    }
  }
  FASTCAM_DEVICE void wait(int t) const {
    const uint32_t parity = uint32_t(kTargets == 1 ? t0 : (t0 + t) >> plan.log2_stages) & 1;
    if (plan.rows_adjoin) {
      barrier_wait(barriers + (t & (stages_at_once() - 1)), parity);
    } else {
      copy(t).wait(parity);
    }
  }

  // emit(t, c, sum) for all targets and channels; the sum of a target that is off is anything.
  // `partial` is as in PassOffsets. Ends with a barrier.
  template <class Emit>
  FASTCAM_DEVICE void make(Acc* partial, const Emit& emit) const {
    const int together = kTargets == 1 ? 1 : 1 << plan.log2_together;
    const int parts = plan.rows_adjoin ? 1 : together;  // that are summed up one by one
    const bool both = parts < together;
    const int rows = both ? 2 * plan.chunk : count;
    const bool last = in.gradients_channels_last;
    const ThreadShare<1> share(rows);
    const int groups = last ? 1 : share.groups;
    int half = 0;
#pragma unroll 1
    for (int t = 0; t < kTargets; t += together) {
      Acc* sums = partial + half * groups * rows * parts;
      half ^= 1;
#pragma unroll 1
      for (int i = 0; i < together; ++i) wait(t + i);
#pragma unroll 1
      for (int i = 0; i < parts; ++i) {
        SharedMatrix<SD> m;
        if (plan.rows_adjoin) {
          const int stage = t & (stages_at_once() - 1);
          m = {reinterpret_cast<const SD*>(stages + stage * plan.at.stage), rows,
               int(in.grad_cells), plan.d.pitch};
        } else {
          m = copy(t + i).held();
        }
        Acc* to = sums + i * groups * rows;
        if (!last) {
          m.rows = rows;
          sums_along<false, 1>(share, m, plan.d.walk, static_cast<const Acc*>(nullptr), to);
          continue;
        }
#pragma unroll 1
        for (int c = int(threadIdx.x); c < count; c += int(blockDim.x)) {
          Acc sum = Acc(0);
#pragma unroll 8
          for (int q = 0; q < m.rows; ++q) sum += to_acc(m.data[q * m.pitch + c]);
          to[c] = sum;
        }
      }
      if (!plan.rows_adjoin) copies_follow_writes();  // threads have copied heads and tails
      __syncthreads();
      if (t + stages_at_once() < kTargets) start(t + stages_at_once(), together);
#pragma unroll 1
      for (int i = 0; i < parts; ++i) {
        add_groups<1>(sums + i * groups * rows, groups, rows, [&](int, int row, Acc sum) {
          const int part = both && row >= plan.chunk ? 1 : 0;
          const int c = row - part * plan.chunk;
          if (c < count) emit(t + i + part, c, sum);
        });
      }
    }
    __syncthreads();
  }
};

template <class S, int kTargets, class Losses>
FASTCAM_DEVICE void cam_loss_pass(const CamLossForward& pass, const PassWork& work) {
  using Acc = AccOf<S>;
  constexpr int kOwn = pass_columns(kTargets);
  constexpr int kThreads = pass_threads(sizeof(Acc), kTargets);
  const CamLoss& op = pass.loss;
  const CamInputs& in = op.in;
  const PassPlan& plan = work.plan;
  const PassOffsets& at = plan.at;
  const int thread = int(threadIdx.x);
  const int threads = int(blockDim.x);
  const int cells = int(in.cells);
  const int channels = int(in.channels);
  constexpr bool kOnce = pass_once(kTargets);
  const bool ring = kTargets > 1 && plan.ring;
  const int all = kTargets == 1 ? 1 : int(in.targets);
  const int end = kOnce ? 1 : all;
  const int ranks = plan.ranks;
  const int rank = cluster_rank();
  const int n = int(blockIdx.x) / ranks;
  const int channel = rank * plan.chunk;
  const int left = channels - channel;
  const int count = left < plan.chunk ? (left > 0 ? left : 0) : plan.chunk;

  char* shared = static_cast<char*>(shared_memory());
  CopyBarrier* barriers = reinterpret_cast<CopyBarrier*>(shared);  // of A, then of D's stages
  Acc* alpha = reinterpret_cast<Acc*>(shared + at.alpha);
  Acc* sums = reinterpret_cast<Acc*>(shared + at.sums);
  Acc* grad_map = reinterpret_cast<Acc*>(shared + at.grad_map);
  Acc* maps = reinterpret_cast<Acc*>(shared + at.maps);
  Acc* regions = reinterpret_cast<Acc*>(shared + at.regions);
  Acc* weights = reinterpret_cast<Acc*>(shared + at.weights);
  int* valid = reinterpret_cast<int*>(shared + at.valid);
  int* on = reinterpret_cast<int*>(shared + at.on);
  char* scratch = shared + at.scratch;

  const bool channels_last = in.activations_channels_last;
  const S* sample = static_cast<const S*>(in.activations) + n * in.activations_stride_n;
  const MatrixCopy<S> matrix{plan.a,
                             barriers,
                             shared + at.matrix,
                             sample + int64_t(channel) * (channels_last ? 1 : cells),
                             channels_last ? cells : count,
                             channels_last ? count : cells,
                             channels_last ? channels : cells};
  const SharedMatrix<S> a = matrix.held();
  if (thread <= 1 << plan.log2_stages) {
    barrier_init(barriers + thread, 1);
    barrier_init_fence();
  }

  // Target t of a pass is finished by every block, or by one of them.
  const int owned = plan.split_targets ? ceil_div(kTargets, ranks) : kTargets;
  const auto target_of = [&](int i) { return plan.split_targets ? rank + i * ranks : i; };
  const bool writes = plan.split_targets || rank == 0;
  bool any = !kOnce && all > kTargets;  // A is needed
  const bool counts = pass.reduction != Reduction::kNone && rank == 0;
  unsigned ticket = 0;
  const auto sync_sample = [&] {
    if (ranks == 1) {
      __syncthreads();
    } else {
      cluster_arrive();
      cluster_wait();
    }
  };

#pragma unroll 1
  for (int t0 = 0; t0 < end; t0 += kTargets) {
    const int targets = all - t0 < kTargets ? all - t0 : kTargets;
    const auto pair_of = [&](int t) { return int64_t(n) * all + t0 + t; };
    if (thread < kTargets) {
      on[thread] = thread < targets && is_on(op, n, t0 + thread);
    }
    if (t0 > 0) copies_follow_writes();
    __syncthreads();
    if (!any) {
#pragma unroll 1
      for (int t = 0; t < targets; ++t) any = any || on[t] != 0;
    }

    const auto with_gradients = [&](const auto& f) {
      const auto make = [&](auto sd) {
        f(ChannelWeights<decltype(sd), kTargets, Acc>{in, plan, barriers + 1, shared + at.gradients,
                                                      n, t0, channel, count, on});
      };
      if constexpr (std::is_same_v<S, Acc>) {
        make(S{});
      } else if (work.gradients_in_acc) {
        make(Acc{});
      } else {
        make(S{});
      }
    };
    if (any) {
      with_gradients([&](const auto& d) { d.start(0, 1 << plan.log2_stages); });
      if (t0 == 0 && !ring) matrix.start();
    }
#pragma unroll 1
    for (int i = 0; i < owned; ++i) {
      const int t = target_of(i);
      if (t >= targets || on[t] == 0) continue;
      const Acc* s = op.regions.of<Acc>(n, t0 + t);
#pragma unroll 1
      for (int p = thread; p < cells; p += threads) copy_later(regions + i * cells + p, s + p);
      if (op.cell_weights.data != nullptr) {
        const Acc* w = op.cell_weights.of<Acc>(n, t0 + t);
#pragma unroll 1
        for (int p = thread; p < cells; p += threads) copy_later(weights + i * cells + p, w + p);
      }
    }
    // What is invalid is stored as 0, whatever A and D hold: here if it is off.
    const auto alpha_out = [&](int t, int c) {
      return static_cast<Acc*>(op.alpha) + pair_of(t) * channels + channel + c;
    };
    if (any) {
      with_gradients([&](const auto& d) {
        d.make(reinterpret_cast<Acc*>(shared + at.partial), [&](int t, int c, Acc sum) {
          const Acc weight = on[t] != 0 ? sum / Acc(cells) : Acc(0);
          alpha[c * kTargets + t] = weight;
          if (t < targets) store(alpha_out(t, c), weight);
        });
      });
      if (ring) {  // nobody reads D any more
        copies_follow_writes();
        __syncthreads();
        matrix.start();
      }
      if (t0 == 0) matrix.wait(0);
      const ThreadShare<kOwn> of_cells(cells);
      if (channels_last) {
        sums_along<true, kTargets>(of_cells, a, plan.a.walk, alpha, sums);
      } else {
        sums_down<S, kTargets>(of_cells, a, alpha, sums);
      }
      if (of_cells.groups > 1) {
        __syncthreads();
        add_groups<kTargets>(sums, of_cells.groups, cells,
                             [&](int t, int p, Acc sum) { sums[t * cells + p] = sum; });
      }
    }
    copies_wait();
    sync_sample();

    const Team team(plan);
    Losses::visit(op, [&](const auto& loss) {
#pragma unroll 1
      for (int first = 0; first < owned; first += plan.teams) {
        const int i = first + team.index;
        const int t = target_of(i);
        const bool mine = team.index < plan.teams && i < owned && t < kTargets;
        const bool real = mine && t < targets;
        const bool active = real && on[t] != 0;
        const int row = mine ? i : 0;
        Acc* out = static_cast<Acc*>(op.grad_map) + pair_of(t) * cells;
        const PairLoss<Acc> result = finish_in_team<kThreads>(
            loss, team, active, mine, maps + row * cells, regions + row * cells,
            op.cell_weights.data == nullptr ? nullptr : weights + row * cells, cells,
            int(op.params.cols), Acc(op.max_pull), scratch,
            [&](int p) {
              const Acc* at = sums + t * cells + p;
              if (ranks == 1) return *at;
              Acc part[kPassMaxRanks];
#pragma unroll
              for (int b = 0; b < kPassMaxRanks; ++b) {
                part[b] = b < ranks ? load_of_block(at, b) : Acc(0);
              }
              Acc sum = part[0];
#pragma unroll
              for (int b = 1; b < kPassMaxRanks; ++b) sum += part[b];
              return sum;
            },
            [&](int p, Acc value) {
              if (plan.split_targets) {
#pragma unroll 1
                for (int b = 0; b < ranks; ++b) {
                  store_in_block(grad_map + p * kTargets + t, b, value);
                }
              } else {
                grad_map[p * kTargets + t] = value;
              }
              if (real && writes) store(out + p, value);
            });
        if (mine && team.member == 0) {
          if (plan.split_targets) {
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
    });
    // Every block has the gradients now, and none reads this block's sums from here on.
    sync_sample();
    if (counts && in.batch > 1 && thread == 0 && t0 + kTargets >= end)
      ticket = take_ticket(work.ticket);

    // Here if it has no region, or no loss.
#pragma unroll 1
    for (int t = 0; t < targets; ++t) {
      if (valid[t] != 0 && any) continue;
#pragma unroll 1
      for (int c = thread; c < count; c += threads) {
        store(alpha_out(t, c), Acc(0));
      }
    }
    if (pass.grad_gradients != nullptr) {
      const ThreadShare<kOwn> of_channels(count);
      if (any) {
        if (channels_last) {
          sums_down<S, kTargets>(of_channels, a, grad_map, sums);
        } else {
          sums_along<true, kTargets>(of_channels, a, plan.a.walk, grad_map, sums);
        }
        __syncthreads();
      }
      add_groups<kTargets>(sums, of_channels.groups, count, [&](int t, int c, Acc sum) {
        if (t >= targets) return;
        store(static_cast<Acc*>(pass.grad_gradients) + pair_of(t) * channels + channel + c,
              valid[t] != 0 ? sum / Acc(cells) : Acc(0));
      });
    }
    __syncthreads();  // before the next targets
  }

  if (counts) {
    if (thread == 0) *valid = in.batch == 1 || ticket == unsigned(in.batch) - 1 ? 1 : 0;
    __syncthreads();
    if (*valid != 0) {
      if (in.batch > 1 && thread == 0) store(work.ticket, 0u);  // for the next launch
      reduce_pairs<Acc>(pass, scratch);
    }
  }
}

#endif  // FASTCAM_HAS_CLUSTERS

template <class S, int kTargets, class Losses>
__global__ void __launch_bounds__((pass_threads(sizeof(AccOf<S>), kTargets)),
                                  (pass_blocks(sizeof(AccOf<S>), kTargets)))
    cam_loss_pass_kernel(const CamLossForward pass, const PassWork work) {
#if defined(FASTCAM_HAS_CLUSTERS)
  cam_loss_pass<S, kTargets, Losses>(pass, work);
#endif
}

}  // namespace fastcam
