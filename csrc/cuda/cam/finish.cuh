// What happens to a finished map: the policy by which grad_cam and each loss differ on the GPU. A
// policy has the op's parameters, where these have inputs and channel weights, and what is called
// by all threads of one block:
//   on(op, n, t)       is the pair wanted at all? (the same answer in every thread)
//   map_of(op, pair)   global memory of P values that may hold the map until finish() is called
//   finish(...)        the map before ReLU -> every output of the pair but alpha
//   skip(...)          the outputs of a pair that is off, alpha excepted
//   reduce(...)        what all pairs have in common, once they are finished, if reduces(op)
#pragma once

#include "common/losses.h"
#include "cuda/cam/plan.h"
#include "cuda/device.cuh"
#include "cuda/pairs.cuh"

namespace fastcam {

// One pair (n, t) whose map lies in `map` (shared memory, or the pair's own output).
template <class Acc>
struct PairMap {
  int64_t n;
  int t;
  int64_t pair;  // n * T + t
  Acc* map;
};

// Shared memory of one block that finish() may use.
template <class Acc>
struct FinishScratch {
  void* reduce;  // kReduceBytes
  Acc* values;
  int capacity;  // of `values`
};

// ReLU in place, and the peak. The calling thread's cells are thread, thread + threads, ...
template <class Acc>
FASTCAM_DEVICE Peak<Acc> rectify(Acc* map, int cells) {
  Peak<Acc> best{Acc(-1), INT32_MAX};
#pragma unroll 1
  for (int p = int(threadIdx.x); p < cells; p += int(blockDim.x)) {
    const Acc r = relu(load_own(map + p));
    store_own(map + p, r);
    best = higher_peak(best, Peak<Acc>{r, p});
  }
  return best;
}

// ---- grad_cam -----------------------------------------------------------------------------------

template <class AccType>
struct MapFinish {
  using Acc = AccType;
  using Params = CamForward;

  FASTCAM_HD static const CamInputs& inputs(const Params& op) { return op.in; }
  FASTCAM_HD static Acc* alpha(const Params& op) { return static_cast<Acc*>(op.alpha); }
  FASTCAM_HD static bool reduces(const Params&) { return false; }
  FASTCAM_DEVICE static void reduce(const Params&, void*) {}
  FASTCAM_DEVICE static bool on(const Params&, int64_t, int) { return true; }
  FASTCAM_DEVICE static Acc* map_of(const Params& op, int64_t pair) {
    return static_cast<Acc*>(op.cam) + pair * op.in.cells;
  }
  FASTCAM_DEVICE static void skip(const Params&, int64_t) {}
  FASTCAM_DEVICE static bool finish(const Params& op, const PairMap<Acc>& at,
                                    const FinishScratch<Acc>& scratch) {
    const int cells = int(op.in.cells);
    const Peak<Acc> peak =
        block_reduce(rectify(at.map, cells), static_cast<Peak<Acc>*>(scratch.reduce),
                     [](Peak<Acc> a, Peak<Acc> b) { return higher_peak(a, b); });
    const Acc divisor = op.normalize ? map_divisor(peak.value) : Acc(1);
    Acc* cam = map_of(op, at.pair);
#pragma unroll 1
    for (int p = int(threadIdx.x); p < cells; p += int(blockDim.x)) {
      store(cam + p, load_own(at.map + p) / divisor);
    }
    if (threadIdx.x == 0) store(static_cast<Acc*>(op.peak) + at.pair, peak.value);
    return true;
  }
};

// ---- losses of the map --------------------------------------------------------------------------

// Steps 3 to 5 of a pair, and d loss / d (map before ReLU). False if the pair is invalid: nothing
// has been written then.
template <class Loss, class Acc>
FASTCAM_DEVICE bool finish_loss(const CamLoss& op, const Loss& loss, const PairMap<Acc>& at,
                                Acc* grad_map, const FinishScratch<Acc>& scratch) {
  const int thread = int(threadIdx.x);
  const int threads = int(blockDim.x);
  const int cells = int(op.in.cells);
  const Acc* region = op.regions.of<Acc>(at.n, at.t);
  const Acc* weight =
      op.cell_weights.data == nullptr ? nullptr : op.cell_weights.of<Acc>(at.n, at.t);
  // A thread reads its cells three times; S and w are kept in shared memory after the first if they
  // fit.
  const bool kept = 2 * cells <= scratch.capacity;
  Acc* kept_region = scratch.values;
  Acc* kept_weight = scratch.values + cells;
  const auto region_at = [&](int p) { return kept ? kept_region[p] : load(region + p); };
  const auto weight_at = [&](int p) {
    return kept ? kept_weight[p] : (weight == nullptr ? Acc(1) : load(weight + p));
  };

  const auto cell_at = [&](int p, Acc x) {
    return Cell<Acc>{x, region_at(p), weight_at(p), Acc(p / op.params.cols),
                     Acc(p % op.params.cols)};
  };

  struct First {
    Peak<Acc> peak;
    Acc area;
    Acc unused;
  };
  First first{rectify(at.map, cells), Acc(0), Acc(0)};
#pragma unroll 1
  for (int p = thread; p < cells; p += threads) {
    const Acc s = load(region + p);
    const Acc w = weight == nullptr ? Acc(1) : load(weight + p);
    if (kept) {
      kept_region[p] = s;
      kept_weight[p] = w;
    }
    first.area += w * s;
  }
  first =
      block_reduce(first, static_cast<First*>(scratch.reduce), [](const First& a, const First& b) {
        return First{higher_peak(a.peak, b.peak), a.area + b.area, Acc(0)};
      });
  bool valid = first.area != Acc(0);  // NaN is not empty: the loss becomes NaN
  if (valid) {
    const Acc peak = first.peak.value;
    const Acc divisor = map_divisor(peak);
    struct Terms {
      Acc value[Loss::kSums];
    };
    Terms sum{};
#pragma unroll 1
    for (int p = thread; p < cells; p += threads) {
      add_terms(loss, cell_at(p, load_own(at.map + p) / divisor), sum.value);
    }
    sum = block_reduce(sum, static_cast<Terms*>(scratch.reduce), [](Terms a, const Terms& b) {
#pragma unroll
      for (int j = 0; j < Loss::kSums; ++j) a.value[j] += b.value[j];
      return a;
    });
    // Not loss_of_sums(): nvcc 13.0 then allocates more registers.
    valid = loss.defined(sum.value);
    if (valid) {
      Acc derivative[Loss::kSums];
      const Acc value = loss.combine(sum.value, derivative);
      const auto slope_at = [&](int p, Acc r) {
        return loss.slope(cell_at(p, r / divisor), derivative);
      };
      struct SlopeSums {
        Acc value[kSlopeSums];
      };
      SlopeSums pull{};
#pragma unroll 1
      for (int p = thread; p < cells; p += threads) {
        const Acc r = load_own(at.map + p);
        add_slope(slope_at(p, r), r / divisor, pull.value);
      }
      pull = block_reduce(pull, static_cast<SlopeSums*>(scratch.reduce),
                          [](SlopeSums a, const SlopeSums& b) {
                            return SlopeSums{a.value[0] + b.value[0], a.value[1] + b.value[1]};
                          });
      const Acc cut = gradient_cut(pull.value[1], Acc(op.max_pull));

#pragma unroll 1
      for (int p = thread; p < cells; p += threads) {
        const Acc r = load_own(at.map + p);
        store(grad_map + p,
              cut * map_gradient(r, slope_at(p, r), pull.value[0], p == first.peak.cell, divisor));
      }
      if (thread == 0) {
        store(static_cast<Acc*>(op.loss) + at.pair, value);
        store(op.status + at.pair, valid_status(peak));
      }
    }
  }
  return valid;
}

// The part that all losses share; `Losses::visit(op, f)` calls f with the loss that the run-time
// options name. The kernel holds them all, since the choice costs nothing next to a map.
template <class Losses, class AccType>
struct LossFinish {
  using Acc = AccType;
  using Params = CamLossForward;

  FASTCAM_HD static const CamInputs& inputs(const Params& op) { return op.loss.in; }
  FASTCAM_HD static Acc* alpha(const Params& op) { return static_cast<Acc*>(op.loss.alpha); }
  FASTCAM_HD static bool reduces(const Params& op) { return op.reduction != Reduction::kNone; }
  FASTCAM_DEVICE static void reduce(const Params& op, void* scratch) {
    reduce_pairs<Acc>(op, scratch);
  }
  FASTCAM_DEVICE static bool on(const Params& op, int64_t n, int t) { return is_on(op.loss, n, t); }
  FASTCAM_DEVICE static Acc* map_of(const Params& op, int64_t pair) {
    return static_cast<Acc*>(op.loss.grad_map) + pair * op.loss.in.cells;
  }
  FASTCAM_DEVICE static void skip(const Params& op, int64_t pair) {
    Acc* grad_map = map_of(op, pair);
#pragma unroll 1
    for (int p = int(threadIdx.x); p < int(op.loss.in.cells); p += int(blockDim.x)) {
      store(grad_map + p, Acc(0));
    }
    if (threadIdx.x == 0) {
      store(static_cast<Acc*>(op.loss.loss) + pair, Acc(0));
      store(op.loss.status + pair, uint8_t(0));
    }
  }

  FASTCAM_DEVICE static bool finish(const Params& op, const PairMap<Acc>& at,
                                    const FinishScratch<Acc>& scratch) {
    bool valid = false;
    Losses::visit(op.loss, [&](const auto& loss) {
      valid = finish_loss(op.loss, loss, at, map_of(op, at.pair), scratch);
    });
    if (!valid) skip(op, at.pair);
    return valid;
  }
};

// Those of losses.h.
template <class Acc>
struct AllLosses {
  template <class F>
  FASTCAM_DEVICE static void visit(const CamLoss& op, const F& f) {
    visit_loss<Acc>(op.kind, op.params, f);
  }
};
template <class Acc>
using AnyLossFinish = LossFinish<AllLosses<Acc>, Acc>;

}  // namespace fastcam
