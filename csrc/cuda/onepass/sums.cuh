// Sums over a matrix that a block holds in shared memory, for kTargets targets at once: down its
// columns and along its rows. Rows are channels and columns cells, or the other way round where
// channels are last; the map is the one sum, the gradient of the channel weights the other.
//
// What is multiplied is read by many lanes of a warp at once. The order of every sum is fixed.
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

// kCount factors that lie next to each other, aligned to 16 bytes if there are as many.
template <int kCount, class Acc>
FASTCAM_DEVICE void read_factors(const Acc* from, Acc (&to)[kCount]) {
  constexpr int kVector = kVectorOf<Acc>;
  if constexpr (kCount % kVector == 0) {
#pragma unroll
    for (int i = 0; i < kCount; i += kVector) {
      const Vec<Acc, kVector> v = *reinterpret_cast<const Vec<Acc, kVector>*>(from + i);
#pragma unroll
      for (int e = 0; e < kVector; ++e) to[i + e] = v.lane[e];
    }
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) to[i] = from[i];
  }
}

// out[t, c] = sum_r factor[r, t] m[r, c], t < kTargets. A thread has kOwn columns; groups of threads
// share the rows, leave their sums in out[group, t, c], and are added up in the order of groups.
// Ends with a barrier.
template <class S, int kTargets, class Acc>
FASTCAM_DEVICE void sums_down(const SharedMatrix<S>& m, const Acc* factor, Acc* out) {
  constexpr int kOwn = pass_columns(kTargets);
  constexpr int kRows = kTargets == 1 ? 4 : 1;  // at once: their factors are one vector
  [[maybe_unused]] constexpr int kUnroll = 4;
  const int thread = int(threadIdx.x);
  const int threads = int(blockDim.x);
  const int slots = (m.cols + kOwn - 1) / kOwn;
  const int groups = pass_groups(threads, m.cols, kOwn);
  const int width = groups > 1 ? slots : threads;
  const int group = thread / width;
#pragma unroll 1
  for (int slot = thread - group * width; group < groups && slot < slots; slot += width) {
    const S* column[kOwn];
    Acc sum[kOwn][kTargets];
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      const int c = slot + k * slots;
      column[k] = m.data + (c < m.cols ? c : m.cols - 1);  // read, and dropped
#pragma unroll
      for (int t = 0; t < kTargets; ++t) sum[k][t] = Acc(0);
    }
    const int whole = m.rows / kRows * kRows;
#pragma unroll kUnroll
    for (int r = kRows * group; r < whole; r += kRows * groups) {
      Acc f[kRows * kTargets];
      read_factors(factor + r * kTargets, f);
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
      for (int r = whole + group; r < m.rows; r += groups) {
        sum[0][0] += factor[r] * to_acc(column[0][r * m.pitch]);
      }
    }
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      const int c = slot + k * slots;
      if (c >= m.cols) continue;
#pragma unroll
      for (int t = 0; t < kTargets; ++t) out[(group * kTargets + t) * m.cols + c] = sum[k][t];
    }
  }
  __syncthreads();
  if (groups == 1) return;
  const int values = kTargets * m.cols;
#pragma unroll 1
  for (int i = thread; i < values; i += threads) {
    Acc sum = out[i];
#pragma unroll 1
    for (int g = 1; g < groups; ++g) sum += out[g * values + i];
    out[i] = sum;
  }
  __syncthreads();
}

// emit(r, sums) with sums[t] = sum_c factor[c, t] m[r, c], for every row r by one thread; without
// factors (null) the sums themselves. A row's values are read kWalk at a time, by several lanes if
// there are few rows.
template <int kWalk, bool kWeighted, int kTargets, class S, class Acc, class Emit>
FASTCAM_DEVICE void sums_along_in(const SharedMatrix<S>& m, const Acc* factor, const Emit& emit) {
  constexpr int kOwn = kWeighted ? pass_columns(kTargets) : 1;
  constexpr int kStep = kWalk > 4 ? kWalk : 4;
  using Vector = Vec<S, kWalk>;
  const int thread = int(threadIdx.x);
  const int threads = int(blockDim.x);
  const int slots = (m.rows + kOwn - 1) / kOwn;
  const int whole = m.cols / kStep * kStep;
  int lanes = 1;
  while (lanes < kWarp && 2 * lanes * slots <= threads && 2 * lanes * kStep <= whole) lanes *= 2;
  const int member = thread & (lanes - 1);
#pragma unroll 1
  for (int first = 0; first < slots; first += threads / lanes) {
    const int slot = first + thread / lanes;
    const S* row[kOwn];
    Acc sum[kOwn][kTargets];
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      const int r = slot + k * slots;
      row[k] = m.data + (r < m.rows ? r : m.rows - 1) * m.pitch;
#pragma unroll
      for (int t = 0; t < kTargets; ++t) sum[k][t] = Acc(0);
    }
#pragma unroll(kTargets == 1 ? 4 : 1)
    for (int c = kStep * member; c < whole; c += kStep * lanes) {
      Vector x[kOwn][kStep / kWalk];
#pragma unroll
      for (int k = 0; k < kOwn; ++k) {
#pragma unroll
        for (int i = 0; i < kStep / kWalk; ++i) {
          x[k][i] = *reinterpret_cast<const Vector*>(row[k] + c + i * kWalk);
        }
      }
      constexpr int kFactors = kTargets == 1 ? kStep : 1;  // of one read
      Acc f[kFactors * kTargets];
#pragma unroll
      for (int e = 0; e < kStep; ++e) {
        if constexpr (kWeighted) {
          if (e % kFactors == 0) read_factors(factor + (c + e) * kTargets, f);
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
    for (int c = whole + member; c < m.cols; c += lanes) {
#pragma unroll
      for (int k = 0; k < kOwn; ++k) {
        const Acc value = to_acc(row[k][c]);
#pragma unroll
        for (int t = 0; t < kTargets; ++t) {
          sum[k][t] += kWeighted ? factor[c * kTargets + t] * value : value;
        }
      }
    }
    if (lanes > 1) {
#pragma unroll
      for (int k = 0; k < kOwn; ++k) {
#pragma unroll
        for (int t = 0; t < kTargets; ++t) {
          sum[k][t] = subwarp_reduce(sum[k][t], lanes, [](Acc a, Acc b) { return a + b; });
        }
      }
    }
    if (member == 0 && slot < slots) {
#pragma unroll
      for (int k = 0; k < kOwn; ++k) {
        if (slot + k * slots < m.rows) emit(slot + k * slots, sum[k]);
      }
    }
  }
}

// The same, with as many values at a time as the plan says.
template <bool kWeighted, int kTargets, class S, class Acc, class Emit>
FASTCAM_DEVICE void sums_along(const SharedMatrix<S>& m, int walk, const Acc* factor,
                               const Emit& emit) {
  constexpr int kVector = kVectorOf<S>;
  if (walk == kVector) {
    sums_along_in<kVector, kWeighted, kTargets>(m, factor, emit);
  } else if (kVector == 8 && walk == 4) {
    sums_along_in<kVector == 8 ? 4 : kVector, kWeighted, kTargets>(m, factor, emit);
  } else {
    sums_along_in<1, kWeighted, kTargets>(m, factor, emit);
  }
}

}  // namespace fastcam
