// Sums over a matrix that a block holds in shared memory, for kTargets targets at once: down its
// columns and along its rows. Rows are channels and columns cells, or the other way round where
// channels are last; the map is the one sum, the gradient of the channel weights the other.
//
// A thread is a column, or a row, with an accumulator for each target; what is multiplied is read
// by all lanes of a warp at once. Groups of threads share the sum and add up what they have one
// after the other, so that its order is fixed.
#pragma once

#include "cuda/onepass/cluster.cuh"

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

// How the threads of a block share `count` rows or columns, kOwn of them a thread.
template <int kOwn>
struct Share {
  int slots;   // that are needed
  int width;   // that are handled side by side
  int groups;  // of threads with the same slots
  int group, slot;

  FASTCAM_DEVICE Share(int count, int most_groups) {
    const int threads = int(blockDim.x);
    const int thread = int(threadIdx.x);
    slots = (count + kOwn - 1) / kOwn;
    width = slots < threads ? slots : threads;
    groups = width > 0 ? threads / width : 1;
    if (groups > most_groups) groups = most_groups > 1 ? most_groups : 1;
    group = width > 0 ? thread / width : 0;
    slot = thread - group * width;
  }
};

// out[t, i] = the groups' sums, one group after the other. Ends with a barrier.
template <int kOwn, int kTargets, class Acc>
FASTCAM_DEVICE void add_groups(const Share<kOwn>& share, int first, int count,
                               const Acc (&sum)[kOwn][kTargets], Acc* out) {
#pragma unroll 1
  for (int round = 0; round < share.groups; ++round) {
    if (share.group == round && first + share.slot < share.slots) {
#pragma unroll
      for (int k = 0; k < kOwn; ++k) {
        const int i = first + share.slot + k * share.slots;
        if (i >= count) continue;
#pragma unroll
        for (int t = 0; t < kTargets; ++t) {
          Acc* to = out + t * count + i;
          *to = round == 0 ? sum[k][t] : *to + sum[k][t];
        }
      }
    }
    __syncthreads();
  }
}

// out[t, c] = sum_r factor[r, t] m[r, c], t < kTargets.
template <class S, int kTargets, int kOwn, class Acc>
FASTCAM_DEVICE void sums_down(const SharedMatrix<S>& m, const Acc* factor, Acc* out) {
  constexpr int kRows = kTargets == 1 ? 4 : 1;  // at once: their factors are one vector
  [[maybe_unused]] constexpr int kUnroll = kTargets == 1 ? 2 : (kTargets <= 4 ? 4 : 2);
  const Share<kOwn> share(m.cols, 16);
#pragma unroll 1
  for (int first = 0; first < share.slots; first += share.width) {
    const bool active = share.group < share.groups && first + share.slot < share.slots;
    const S* column[kOwn];
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      const int c = first + share.slot + k * share.slots;
      column[k] = m.data + (c < m.cols ? c : m.cols - 1);  // read, and dropped
    }
    Acc sum[kOwn][kTargets];
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
#pragma unroll
      for (int t = 0; t < kTargets; ++t) sum[k][t] = Acc(0);
    }
    const auto add_row = [&](int r) {
      Acc f[kTargets];
      read_factors(factor + r * kTargets, f);
#pragma unroll
      for (int k = 0; k < kOwn; ++k) {
        const Acc x = to_acc(column[k][r * m.pitch]);
#pragma unroll
        for (int t = 0; t < kTargets; ++t) sum[k][t] += f[t] * x;
      }
    };
    const int rows = active ? m.rows : 0;
    if constexpr (kRows == 4) {
      const int whole = rows / 4 * 4;
#pragma unroll kUnroll
      for (int r = 4 * share.group; r < whole; r += 4 * share.groups) {
        Acc f[4];
        read_factors(factor + r, f);
#pragma unroll
        for (int k = 0; k < kOwn; ++k) {
          const S* x = column[k] + r * m.pitch;
#pragma unroll
          for (int e = 0; e < 4; ++e) sum[k][0] += f[e] * to_acc(x[e * m.pitch]);
        }
      }
#pragma unroll 1
      for (int r = whole + share.group; r < rows; r += share.groups) add_row(r);
    } else {
#pragma unroll kUnroll
      for (int r = share.group; r < rows; r += share.groups) add_row(r);
    }
    add_groups<kOwn, kTargets>(share, first, m.cols, sum, out);
  }
}

// out[t, r] = sum_c factor[c, t] m[r, c]. A row's values are read kWalk at a time.
template <class S, int kTargets, int kOwn, int kWalk, class Acc>
FASTCAM_DEVICE void sums_along(const SharedMatrix<S>& m, const Acc* factor, Acc* out) {
  constexpr int kStep = kWalk > 4 ? kWalk : 4;
  using Vector = Vec<S, kWalk>;
  const Share<kOwn> share(m.rows, 16);
#pragma unroll 1
  for (int first = 0; first < share.slots; first += share.width) {
    const bool active = share.group < share.groups && first + share.slot < share.slots;
    const S* row[kOwn];
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      const int r = first + share.slot + k * share.slots;
      row[k] = m.data + (r < m.rows ? r : m.rows - 1) * m.pitch;
    }
    Acc sum[kOwn][kTargets];
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
#pragma unroll
      for (int t = 0; t < kTargets; ++t) sum[k][t] = Acc(0);
    }
    if (active) {
      const int whole = m.cols / kStep * kStep;
#pragma unroll 1
      for (int c = kStep * share.group; c < whole; c += kStep * share.groups) {
        Vector x[kOwn][kStep / kWalk];
#pragma unroll
        for (int k = 0; k < kOwn; ++k) {
#pragma unroll
          for (int i = 0; i < kStep / kWalk; ++i) {
            x[k][i] = *reinterpret_cast<const Vector*>(row[k] + c + i * kWalk);
          }
        }
        if constexpr (kTargets == 1) {
          Acc f[kStep];
          read_factors(factor + c, f);
#pragma unroll
          for (int k = 0; k < kOwn; ++k) {
#pragma unroll
            for (int e = 0; e < kStep; ++e) {
              sum[k][0] += f[e] * to_acc(x[k][e / kWalk].lane[e % kWalk]);
            }
          }
        } else {
#pragma unroll
          for (int e = 0; e < kStep; ++e) {
            Acc f[kTargets];
            read_factors(factor + (c + e) * kTargets, f);
#pragma unroll
            for (int k = 0; k < kOwn; ++k) {
              const Acc value = to_acc(x[k][e / kWalk].lane[e % kWalk]);
#pragma unroll
              for (int t = 0; t < kTargets; ++t) sum[k][t] += f[t] * value;
            }
          }
        }
      }
#pragma unroll 1
      for (int c = whole + share.group; c < m.cols; c += share.groups) {
        Acc f[kTargets];
        read_factors(factor + c * kTargets, f);
#pragma unroll
        for (int k = 0; k < kOwn; ++k) {
          const Acc value = to_acc(row[k][c]);
#pragma unroll
          for (int t = 0; t < kTargets; ++t) sum[k][t] += f[t] * value;
        }
      }
    }
    add_groups<kOwn, kTargets>(share, first, m.rows, sum, out);
  }
}

// The same, with as many values at a time as the plan says.
template <class S, int kTargets, int kOwn, class Acc>
FASTCAM_DEVICE void sums_along(const SharedMatrix<S>& m, int walk, const Acc* factor, Acc* out) {
  constexpr int kVector = kVectorOf<S>;
  if (walk == kVector) {
    sums_along<S, kTargets, kOwn, kVector>(m, factor, out);
  } else if (kVector == 8 && walk == 4) {
    sums_along<S, kTargets, kOwn, kVector == 8 ? 4 : kVector>(m, factor, out);
  } else {
    sums_along<S, kTargets, kOwn, 1>(m, factor, out);
  }
}

// ---- channel weights ----------------------------------------------------------------------------

// One target's D as the sums read it.
template <class SD>
struct GradientRows {
  const SD* data;  // of target 0 of the sample, from the block's first channel on
  int64_t stride_t;
  int channels;  // of the tensor
  int count;     // of the block
  int cells;     // Q
  bool channels_last;
  unsigned on;  // bit t: wanted
};

// alpha[c, t] = sum_q D[t, c, q] / divisor, 0 for a target that is not wanted. Cells of one channel
// are neighbours; a subwarp of lanes has one channel of one target, two of them at once.
template <int V, int kTargets, class SD, class Acc>
FASTCAM_DEVICE void channel_weights_of_rows(const GradientRows<SD>& d, int targets, Acc divisor,
                                            Acc* alpha) {
  constexpr int kLoads = V == 1 ? 8 : 4;
  constexpr int kRows = 2;
  const int vectors = d.cells / V;
  int subwarp = 1;
  while (subwarp < kWarp && subwarp * kLoads < vectors) subwarp *= 2;
  const int thread = int(threadIdx.x);
  const int subwarps = int(blockDim.x) / subwarp;
  const int member = thread & (subwarp - 1);
  const int rows = targets * d.count;
#pragma unroll 1
  for (int first = 0; first < rows; first += kRows * subwarps) {
    Acc sum[kRows];
    const SD* from[kRows];
    int to[kRows];
    bool wanted[kRows];
#pragma unroll
    for (int u = 0; u < kRows; ++u) {
      const int row = first + u * subwarps + thread / subwarp;
      const int t = kTargets == 1 ? 0 : row / d.count;
      const int c = row - t * d.count;
      wanted[u] = row < rows && (d.on >> t & 1) != 0;
      to[u] = row < rows ? c * kTargets + t : -1;
      from[u] = d.data + t * d.stride_t + int64_t(c) * d.cells;
      sum[u] = Acc(0);
    }
#pragma unroll 1
    for (int j = member; j < vectors; j += kLoads * subwarp) {
      Vec<SD, V> x[kRows][kLoads];
#pragma unroll
      for (int u = 0; u < kRows; ++u) {
#pragma unroll
        for (int i = 0; i < kLoads; ++i) {
          x[u][i] = Vec<SD, V>{};
          if (wanted[u] && j + i * subwarp < vectors) {
            x[u][i] = load(reinterpret_cast<const Vec<SD, V>*>(from[u]) + j + i * subwarp);
          }
        }
      }
#pragma unroll
      for (int u = 0; u < kRows; ++u) {
#pragma unroll
        for (int i = 0; i < kLoads; ++i) {
#pragma unroll
          for (int e = 0; e < V; ++e) sum[u] += to_acc(x[u][i].lane[e]);
        }
      }
    }
#pragma unroll
    for (int u = 0; u < kRows; ++u) {
      sum[u] = subwarp_reduce(sum[u], subwarp, [](Acc a, Acc b) { return a + b; });
      if (member == 0 && to[u] >= 0) alpha[to[u]] = wanted[u] ? sum[u] / divisor : Acc(0);
    }
  }
}

// The same where the channels of one cell are neighbours: a thread is a channel, and groups of
// threads share the cells. `scratch` has a value for each thread. Ends with a barrier.
template <int kTargets, class SD, class Acc>
FASTCAM_DEVICE void channel_weights_of_columns(const GradientRows<SD>& d, int targets, Acc divisor,
                                               Acc* alpha, Acc* scratch) {
  constexpr int kLoads = 8;
  const int thread = int(threadIdx.x);
  const int threads = int(blockDim.x);
  const int columns = targets * d.count;
  const int width = columns < threads ? columns : threads;
  int groups = threads / width;
  if (groups > d.cells) groups = d.cells > 1 ? d.cells : 1;
  const int group = thread / width;
  const int slot = thread - group * width;
#pragma unroll 1
  for (int first = 0; first < columns; first += width) {
    const int column = first + slot;
    const int t = kTargets == 1 ? 0 : column / d.count;
    const int c = column - t * d.count;
    const bool inside = group < groups && column < columns;
    const bool wanted = inside && (d.on >> t & 1) != 0;
    const SD* from = d.data + t * d.stride_t + c;
    Acc sum = Acc(0);
#pragma unroll 1
    for (int q = group; q < d.cells; q += kLoads * groups) {
      SD x[kLoads];
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        x[i] = SD{};
        if (wanted && q + i * groups < d.cells) {
          x[i] = load(from + int64_t(q + i * groups) * d.channels);
        }
      }
#pragma unroll
      for (int i = 0; i < kLoads; ++i) sum += to_acc(x[i]);
    }
    if (inside) scratch[thread] = sum;
    __syncthreads();
    if (inside && group == 0) {
#pragma unroll 1
      for (int g = 1; g < groups; ++g) sum += scratch[g * width + slot];
      alpha[c * kTargets + t] = wanted ? sum / divisor : Acc(0);
    }
    __syncthreads();
  }
}

template <int kTargets, class SD, class Acc>
FASTCAM_DEVICE void channel_weights(const GradientRows<SD>& d, int targets, Acc divisor, Acc* alpha,
                                    Acc* scratch) {
  constexpr int kVector = kVectorOf<SD>;
  if (d.count == 0) return;
  if (d.channels_last) {
    channel_weights_of_columns<kTargets>(d, targets, divisor, alpha, scratch);
  } else if (d.cells % kVector == 0 && d.stride_t % kVector == 0 &&
             reinterpret_cast<uintptr_t>(d.data) % kVectorBytes == 0) {
    channel_weights_of_rows<kVector, kTargets>(d, targets, divisor, alpha);
  } else {
    channel_weights_of_rows<1, kTargets>(d, targets, divisor, alpha);
  }
}

}  // namespace fastcam
