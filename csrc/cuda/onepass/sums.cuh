// Sums over a matrix that a block holds in shared memory, for kTargets targets at once: down its
// columns and along its rows. Rows are channels and columns cells, or the other way round where
// channels are last; the map is the one sum, the gradient of the channel weights the other.
//
// A thread has kOwn columns, or rows; groups of threads share the sum, and leave their parts in
// partial[group, t, i] (shared memory). All lanes of a warp then read the same factors at once, and
// their values from different banks. add_groups() adds the parts in the order of the groups.
#pragma once

#include "cuda/device.cuh"
#include "cuda/onepass/plan.h"

namespace fastcam {

// Value (r, c) is data[r * pitch + c].
template <class S>
struct SharedMatrix {
  const S* data;
  int rows;
  int cols;
  int pitch;
};

// How the threads of a block share `count` columns or rows.
template <int kOwn>
struct ThreadShare {
  int slots;   // threads that are needed
  int groups;  // of threads with the same slots
  int width;   // slots that are handled side by side
  int group, slot;

  ThreadShare() = default;
  FASTCAM_DEVICE explicit ThreadShare(int count) {
    const int threads = int(blockDim.x);
    const int thread = int(threadIdx.x);
    slots = (count + kOwn - 1) / kOwn;  // with ceil_div() nvcc 13.0 allocates other registers
    groups = pass_groups(threads, count, kOwn);
    width = groups > 1 ? slots : threads;
    group = groups > 1 ? thread / width : 0;
    slot = group < groups ? thread - group * width : slots;
  }
};

// partial[group, t, i] of a thread's own columns or rows i.
template <int kTargets, class Acc, int kOwn>
FASTCAM_DEVICE void store_parts(const ThreadShare<kOwn>& share, int slot, int count,
                                const Acc (&sum)[kOwn][kTargets], Acc* partial) {
#pragma unroll
  for (int k = 0; k < kOwn; ++k) {
    const int i = slot + k * share.slots;
    if (i >= count) continue;
#pragma unroll
    for (int t = 0; t < kTargets; ++t) {
      partial[(share.group * kTargets + t) * count + i] = sum[k][t];
    }
  }
}

// emit(t, i, sum) for every target and column or row i, by one thread. After a barrier.
template <int kTargets, class Acc, class Emit>
FASTCAM_DEVICE void add_groups(const Acc* partial, int groups, int count, const Emit& emit) {
  const int values = kTargets * count;
#pragma unroll 1
  for (int i = int(threadIdx.x); i < values; i += int(blockDim.x)) {
    Acc sum = partial[i];
#pragma unroll 4
    for (int g = 1; g < groups; ++g) sum += partial[g * values + i];
    const int t = kTargets == 1 ? 0 : i / count;
    emit(t, i - t * count, sum);
  }
}

// partial[group, t, c] with sum_r factor[r, t] m[r, c] over the group's rows.
template <class S, int kTargets, class Acc, int kOwn>
FASTCAM_DEVICE void sums_down(const ThreadShare<kOwn>& share, const SharedMatrix<S>& m,
                              const Acc* factor, Acc* partial) {
  constexpr int kRows = kTargets == 1 ? 4 : 1;  // at once: their factors are one vector
  [[maybe_unused]] constexpr int kUnroll = 4;
#pragma unroll 1
  for (int slot = share.slot; slot < share.slots; slot += share.width) {
    const S* column[kOwn];
    Acc sum[kOwn][kTargets];
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      const int c = slot + k * share.slots;
      column[k] = m.data + (c < m.cols ? c : m.cols - 1);  // read, and dropped
#pragma unroll
      for (int t = 0; t < kTargets; ++t) sum[k][t] = Acc(0);
    }
    const int whole = m.rows / kRows * kRows;
#pragma unroll kUnroll
    for (int r = kRows * share.group; r < whole; r += kRows * share.groups) {
      Acc f[kRows * kTargets];
      read_run(factor + r * kTargets, f);
#pragma unroll
      for (int k = 0; k < kOwn; ++k) {
#pragma unroll
        for (int e = 0; e < kRows; ++e) {
          const Acc x = to_acc(column[k][(r + e) * m.pitch]);
#pragma unroll
          for (int t = 0; t < kTargets; ++t) sum[k][t] += f[e * kTargets + t] * x;
        }
      }
    }
    if constexpr (kRows > 1) {
#pragma unroll 1
      for (int r = whole + share.group; r < m.rows; r += share.groups) {
        sum[0][0] += factor[r] * to_acc(column[0][r * m.pitch]);
      }
    }
    store_parts(share, slot, m.cols, sum, partial);
  }
}

// partial[group, t, r] with sum_c factor[c, t] m[r, c] over the group's columns; without kWeighted
// every factor is one. A row's values are read kWalk at a time.
template <int kWalk, bool kWeighted, int kTargets, class S, class Acc, int kOwn>
FASTCAM_DEVICE void sums_along_in(const ThreadShare<kOwn>& share, const SharedMatrix<S>& m,
                                  const Acc* factor, Acc* partial) {
  constexpr int kStep = kWalk > 4 ? kWalk : 4;
  constexpr int kFactors = kTargets == 1 ? kStep : 1;  // columns whose factors are read at once
  [[maybe_unused]] constexpr int kUnroll = kTargets == 1 ? 4 : (kTargets <= 4 ? 2 : 1);
  using Vector = Vec<S, kWalk>;
  const int whole = m.cols / kStep * kStep;
#pragma unroll 1
  for (int slot = share.slot; slot < share.slots; slot += share.width) {
    const S* row[kOwn];
    Acc sum[kOwn][kTargets];
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      const int r = slot + k * share.slots;
      row[k] = m.data + (r < m.rows ? r : m.rows - 1) * m.pitch;  // read, and dropped
#pragma unroll
      for (int t = 0; t < kTargets; ++t) sum[k][t] = Acc(0);
    }
#pragma unroll kUnroll
    for (int c = kStep * share.group; c < whole; c += kStep * share.groups) {
      Vector x[kOwn][kStep / kWalk];
#pragma unroll
      for (int k = 0; k < kOwn; ++k) {
#pragma unroll
        for (int i = 0; i < kStep / kWalk; ++i) {
          x[k][i] = *reinterpret_cast<const Vector*>(row[k] + c + i * kWalk);
        }
      }
      Acc f[kFactors * kTargets];
#pragma unroll
      for (int e = 0; e < kStep; ++e) {
        if constexpr (kWeighted) {
          if (e % kFactors == 0) read_run(factor + (c + e) * kTargets, f);
        }
#pragma unroll
        for (int k = 0; k < kOwn; ++k) {
          const Acc value = to_acc(x[k][e / kWalk].lane[e % kWalk]);
#pragma unroll
          for (int t = 0; t < kTargets; ++t) {
            sum[k][t] += kWeighted ? f[(e % kFactors) * kTargets + t] * value : value;
          }
        }
      }
    }
#pragma unroll 1
    for (int c = whole + share.group; c < m.cols; c += share.groups) {
      Acc f[kTargets];
      if constexpr (kWeighted) read_run(factor + c * kTargets, f);
#pragma unroll
      for (int k = 0; k < kOwn; ++k) {
        const Acc value = to_acc(row[k][c]);
#pragma unroll
        for (int t = 0; t < kTargets; ++t) sum[k][t] += kWeighted ? f[t] * value : value;
      }
    }
    store_parts(share, slot, m.rows, sum, partial);
  }
}

// The same, with as many values at a time as the plan says.
template <bool kWeighted, int kTargets, class S, class Acc, int kOwn>
FASTCAM_DEVICE void sums_along(const ThreadShare<kOwn>& share, const SharedMatrix<S>& m, int walk,
                               const Acc* factor, Acc* partial) {
  constexpr int kVector = kVectorOf<S>;
  if (walk == kVector) {
    sums_along_in<kVector, kWeighted, kTargets>(share, m, factor, partial);
  } else if (kVector == 8 && walk == 4) {
    sums_along_in<kVector == 8 ? 4 : kVector, kWeighted, kTargets>(share, m, factor, partial);
  } else {
    sums_along_in<1, kWeighted, kTargets>(share, m, factor, partial);
  }
}

}  // namespace fastcam
