// attend forward in one launch: Z = (1 + g(sigmoid(L); n, beta)) F under several curves, or its
// mean over the cells, and sum_p sigmoid(L), from one read of L.
//
// A block takes whole channels of one sample and some attributes (plan.h). Its channels are
// a run of vectors in F, in L under each attribute, and in Z. A thread has one vector of F in
// registers and uses it for one attribute after the other. Sums over a row (one channel under
// one attribute): each vector leaves what belongs to its first row and to its second in shared
// memory, and subwarps of lanes add these up, in a fixed order.
#pragma once

#include "common/tone_curve.h"
#include "cuda/attend/plan.h"
#include "cuda/device.cuh"

namespace fastcam {

struct AttendForwardWork {
  AttendPlan plan;
  int first_curve;  // of the op's
  int curves;       // of this launch
  ToneCurve curve[kCurvesPerLaunch];
};

// Vectors of L in flight of one thread: registers hold as many values for each dtype.
template <class S>
inline constexpr int kAttendForwardUnroll = sizeof(S) == 4 ? 4 : 2;

#define FASTCAM_ATTEND_BOUNDS(S) \
  __launch_bounds__((kAttendThreads<AccOf<S>>), (kAttendBlocks<AccOf<S>>))

// sums[k - first, row] += the row's share of `parts`, for the attributes of one round. A vector's
// low part is of the row it begins in, its high part of the next.
template <int V, int kUnroll, class Acc>
FASTCAM_DEVICE void add_rows(const AttendPlan& plan, const Acc* parts, int round, int pass_slot,
                             int slots, int cells, int attributes, Acc* sums) {
  const int threads = int(blockDim.x);
  const int thread = int(threadIdx.x);
  const int first_row = pass_slot * V / cells;
  const int rows = ((pass_slot + slots) * V - 1) / cells - first_row + 1;
  const int attributes_here = kUnroll * plan.groups;
  const int tasks = attributes_here * rows;
  const int row_vectors = cells / V + 2;
  int subwarp_bits = 5;
  while (subwarp_bits > 0 &&
         ((threads >> subwarp_bits) < tasks || (1 << subwarp_bits) >= 2 * row_vectors)) {
    --subwarp_bits;
  }
  const int subwarp = 1 << subwarp_bits;
  const int rank = thread & (subwarp - 1);
#pragma unroll 1
  for (int task0 = 0; task0 < tasks; task0 += threads >> subwarp_bits) {
    const int task = task0 + (thread >> subwarp_bits);
    const int member = task / rows;  // of the attributes of the round
    const int row = first_row + task - member * rows;
    const int k = round * attributes_here + member;
    const bool wanted = task < tasks && k < attributes;
    Acc total = Acc(0);
    if (wanted) {
      const int begin = row * cells;
      const int first = begin / V;
      const int last = (begin + cells - 1) / V;
      const int from = first < pass_slot ? pass_slot : first;
      const int to = last < pass_slot + slots ? last + 1 : pass_slot + slots;
      const Acc* low = parts + member * 2 * plan.width - pass_slot;
#pragma unroll 1
      for (int v = from + rank; v < to; v += subwarp) {
        const bool second = V > 1 && v == first && begin % V != 0;
        total += second ? low[plan.width + v] : low[v];
      }
    }
    total = subwarp_reduce(total, subwarp, [](Acc a, Acc b) { return a + b; });
    if (wanted && rank == 0) sums[k * plan.chunk + row] += total;
  }
}

template <class S, bool kPool, int V>
FASTCAM_DEVICE void attend_forward_block(const AttendForward& op, const AttendForwardWork& work) {
  using Acc = AccOf<S>;
  using Vector = Vec<S, V>;
  constexpr int kUnroll = kAttendForwardUnroll<S>;
  const AttendPlan& plan = work.plan;
  const int thread = int(threadIdx.x);
  const int threads = int(blockDim.x);
  const int cells = int(op.shape.cells);
  const int all_attributes = int(op.shape.attributes);
  const int all_channels = int(op.shape.channels);

  // blockIdx: attributes fastest, so that blocks that share features run together.
  const int split = int(blockIdx.x) % plan.splits;
  const int rest = int(blockIdx.x) / plan.splits;
  const int n = rest / plan.tiles;
  const int channel = (rest - n * plan.tiles) * plan.chunk;
  const int channels = all_channels - channel < plan.chunk ? all_channels - channel : plan.chunk;
  const int k0 = split * plan.attributes;
  const int attributes =
      all_attributes - k0 < plan.attributes ? all_attributes - k0 : plan.attributes;
  const int all_slots = channels * cells / V;  // a whole number by the choice of the plan
  const int group = thread / plan.width;
  const int slot = thread - group * plan.width;

  char* shared = static_cast<char*>(shared_memory());
  Vector* staged = reinterpret_cast<Vector*>(shared);
  Acc* parts = reinterpret_cast<Acc*>(shared + plan.staged_bytes);  // [2, unroll, groups, 2, width]
  Acc* sums = parts + 2 * plan.parts_values;  // [1 + curves, attributes, chunk]
  const int sum_stride = plan.attributes * plan.chunk;

  const S* features =
      static_cast<const S*>(op.features) + (int64_t(n) * all_channels + channel) * int64_t(cells);
  // The block's first channel under its attribute k, among all rows [N, K, C].
  const auto row_of = [&](int k) {
    return (int64_t(n) * all_attributes + k0 + k) * all_channels + channel;
  };

#pragma unroll 1
  for (int i = thread; i < plan.sums_values; i += threads) sums[i] = Acc(0);

  int buffer = 0;
#pragma unroll 1
  for (int pass_slot = 0; pass_slot < all_slots; pass_slot += plan.width) {
    const int slots = all_slots - pass_slot < plan.width ? all_slots - pass_slot : plan.width;
    // All groups want the same features: read once.
    if (thread < slots) {
      staged[thread] = load(reinterpret_cast<const Vector*>(features) + pass_slot + thread);
    }
    __syncthreads();
    const bool active = group < plan.groups && slot < slots;
    const Vector f = active ? staged[slot] : Vector{};
    const int at = (pass_slot + slot) * V;
    const int left = cells - at % cells;
    const int row_end = left < V ? left : V;  // values of the vector's first row

#pragma unroll 1
    for (int round = 0; round * kUnroll * plan.groups < attributes; ++round) {
      const auto attribute = [&](int u) { return (round * kUnroll + u) * plan.groups + group; };
      Vector x[kUnroll];
      bool used[kUnroll];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const int k = attribute(u);
        used[u] = active && k < attributes;
        x[u] = Vector{};
        if (!used[u]) continue;
        x[u] = load(reinterpret_cast<const Vector*>(static_cast<const S*>(op.logits) +
                                                    row_of(k) * cells + at));
      }
      // Of the masks only u, which takes an exp, is kept; the logits stay in their storage type.
      Acc held[kUnroll][V];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
#pragma unroll
        for (int e = 0; e < V; ++e) held[u][e] = MaskLogit<Acc>(to_acc(x[u].lane[e])).u;
      }
      const auto mask_of = [&](int u, int e) {
        MaskLogit<Acc> mask;
        mask.logit = to_acc(x[u].lane[e]);
        mask.u = held[u][e];
        return mask;
      };
      // Sums over the rows of what make(u, terms) makes.
      const auto sum_up = [&](const auto& make, Acc* to) {
        Acc* here = parts + buffer * plan.parts_values;
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) {
          if (!used[u]) continue;
          Acc term[V];
          make(u, term);
          Acc low = Acc(0);
          Acc high = Acc(0);
#pragma unroll
          for (int e = 0; e < V; ++e) {
            if (e < row_end) {
              low += term[e];
            } else {
              high += term[e];
            }
          }
          Acc* mine = here + (u * plan.groups + group) * 2 * plan.width + slot;
          mine[0] = low;
          if constexpr (V > 1) mine[plan.width] = high;
        }
        __syncthreads();  // one is enough: the next sums go through the other buffer
        add_rows<V, kUnroll>(plan, here, round, pass_slot, slots, cells, attributes, to);
        buffer ^= 1;
      };

      const auto masks = [&](int u, Acc(&term)[V]) {
#pragma unroll
        for (int e = 0; e < V; ++e) term[e] = mask_of(u, e).mask();
      };
      sum_up(masks, sums);
#pragma unroll 1
      for (int j = 0; j < work.curves; ++j) {
        const Attention<Acc> attention(work.curve[j]);
        const auto attended = [&](int u, Acc(&z)[V]) {
          constexpr int kAtOnce = V < 2 ? V : 2;  // more would not fit into registers
#pragma unroll
          for (int first = 0; first < V; first += kAtOnce) {
            MaskLogit<Acc> mask[kAtOnce];
            Acc lower[kAtOnce];
#pragma unroll
            for (int e = 0; e < kAtOnce; ++e) mask[e] = mask_of(u, first + e);
            attention.lower(mask, lower);
#pragma unroll
            for (int e = 0; e < kAtOnce; ++e) {
              z[first + e] = attention.factor(mask[e], lower[e]) * to_acc(f.lane[first + e]);
            }
          }
        };
        if constexpr (kPool) {
          sum_up(attended, sums + (1 + j) * sum_stride);
        } else {
          const int64_t first_row =
              (work.first_curve + j) * op.shape.batch * all_attributes * all_channels;
#pragma unroll
          for (int u = 0; u < kUnroll; ++u) {
            if (!used[u]) continue;
            Acc z[V];
            attended(u, z);
            Vector rounded;
#pragma unroll
            for (int e = 0; e < V; ++e) rounded.lane[e] = from_acc<S>(z[e]);
            S* to = static_cast<S*>(op.out) + (first_row + row_of(attribute(u))) * cells + at;
            store(reinterpret_cast<Vector*>(to), rounded);
          }
        }
      }
    }
  }

  __syncthreads();
#pragma unroll 1
  for (int i = thread; i < attributes * channels; i += threads) {
    const int k = i / channels;
    const int c = i - k * channels;
    const int64_t row = row_of(k) + c;
    const Acc* sum = sums + k * plan.chunk + c;
    store(static_cast<Acc*>(op.mask_sum) + row, sum[0]);
    if constexpr (kPool) {
#pragma unroll 1
      for (int j = 0; j < work.curves; ++j) {
        const int64_t rows = op.shape.batch * all_attributes * all_channels;
        store(static_cast<S*>(op.out) + (work.first_curve + j) * rows + row,
              from_acc<S>(sum[(1 + j) * sum_stride] / Acc(cells)));
      }
    }
  }
}

template <class S, bool kPool>
__global__ void FASTCAM_ATTEND_BOUNDS(S)
    attend_forward_kernel(const AttendForward op, const AttendForwardWork work) {
  if (work.plan.vectors) {
    attend_forward_block<S, kPool, kVectorOf<S>>(op, work);
  } else {
    attend_forward_block<S, kPool, 1>(op, work);
  }
}

}  // namespace fastcam
