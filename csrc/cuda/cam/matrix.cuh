// Three primitives on a matrix in global memory, each for one block of threads: sums over its rows,
// sums over its columns, and an outer product written out. grad_cam and the losses are made of
// these: channels-first activations are a matrix of channels x cells, channels-last ones of cells x
// channels.
//
// Values go 16 bytes at a time where the matrix allows it, and one at a time elsewhere. Rows whose
// width is no multiple of a vector can be taken several together where they lie one behind the
// other and begin at an aligned address: V / gcd(V, width) rows, a fold, are whole vectors (13 x 13
// cells in float: four channels, 169 vectors). A thread keeps its place in the fold, so its columns
// never change, and a vector has values of two rows at most.
#pragma once

#include "cuda/cam/plan.h"
#include "cuda/device.cuh"

// Chips other than Hopper need more registers for the same code.
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ < 900 || __CUDA_ARCH__ >= 1000)
#define FASTCAM_CAM_BLOCKS(Acc, kTargets) (kTargets == 1 && sizeof(Acc) == 4 ? 2 : 1)
#else
#define FASTCAM_CAM_BLOCKS(Acc, kTargets) (kCamBlocks<Acc, kTargets>)
#endif

namespace fastcam {

// Value (r, c) is data[r * pitch + c].
template <class S>
struct Matrix {
  S* data;
  int rows;
  int cols;
  int pitch;
};

// One factor of each row or column for each of `count` targets, in shared memory: row t of `stride`
// values (plan.h), with zeros behind the last factor.
template <class Acc>
struct Factors {
  Acc* data;
  int stride;
  int count;
  FASTCAM_DEVICE Acc* of(int t) const { return data + t * stride; }
};

// value(t, i) for i < width.
template <class Acc, class Value>
FASTCAM_DEVICE void fill_factors(const Factors<Acc>& to, int width, const Value& value) {
#pragma unroll 2
  for (int k = int(threadIdx.x); k < to.count * to.stride; k += int(blockDim.x)) {
    const int t = k / to.stride;
    const int i = k - t * to.stride;
    to.data[k] = i < width ? value(t, i) : Acc(0);
  }
}

// Loads of V values that a thread has in flight: 32 bytes and more, but of 16-bit values.
template <class S, int V, int kTargets>
inline constexpr int kInFlight = sizeof(S) * V < 8 ? 8 : (kTargets == 1 && V <= 4 ? 4 : 2);

// Value `at` of a matrix, and V - 1 more. 32 bits are enough, and leave registers for what is
// loaded.
template <int V, class S>
FASTCAM_DEVICE Vec<S, V> load_vector(const S* data, unsigned at) {
  return load(reinterpret_cast<const Vec<S, V>*>(reinterpret_cast<const char*>(data) +
                                                 at * unsigned(sizeof(S))));
}

// Neighbouring values that a thread takes at once: a vector, unless several targets would need too
// many registers.
template <class S, int kTargets>
inline constexpr int kLanesOf = kTargets > 1 && kVectorOf<S> > 4 ? 4 : kVectorOf<S>;

template <int V>
FASTCAM_DEVICE int rows_of_fold(int cols) {
  const int pow2 = cols & -cols;
  return pow2 < V ? V / pow2 : 1;
}
template <int V, class S>
FASTCAM_DEVICE bool is_aligned(const S* data) {
  return reinterpret_cast<uintptr_t>(data) % (sizeof(S) * V) == 0;
}
// Can folds be read and written in vectors of V, each thread with one place in them?
template <int V, class S>
FASTCAM_DEVICE bool in_folds(const Matrix<S>& m) {
  const int fold = rows_of_fold<V>(m.cols);
  if (m.cols < V || !is_aligned<V>(m.data)) return false;
  if (fold == 1) return m.pitch % V == 0 || m.rows == 1;
  return m.pitch == m.cols && m.rows % fold == 0 && fold * m.cols / V <= int(blockDim.x);
}
// Can each row by itself?
template <int V, class S>
FASTCAM_DEVICE bool in_rows(const Matrix<S>& m) {
  return is_aligned<V>(m.data) && m.cols % V == 0 && (m.pitch % V == 0 || m.rows == 1);
}

// How the threads of a block share the folds of a matrix. Groups of them have the same places in
// different folds; where there are more places than threads, they take several turns.
template <int V>
struct Walk {
  int fold;  // rows
  int folds;
  int step;    // in memory, from one fold to the next
  int places;  // vectors in a fold
  int width;   // of these, at a time
  int groups;
  int group, place;

  // of the turn
  bool active;
  int row, column;  // of the thread's first value in a fold
  int split;        // values before it are of `row`, the others of row + 1

  template <class S>
  FASTCAM_DEVICE explicit Walk(const Matrix<S>& m) : fold(rows_of_fold<V>(m.cols)) {
    const int threads = int(blockDim.x);
    folds = m.rows / fold;
    step = fold * m.pitch;
    places = fold * m.cols / V;
    width = places < threads ? places : threads;
    groups = threads / width;
    group = int(threadIdx.x) / width;
    place = int(threadIdx.x) - group * width;
  }
  FASTCAM_DEVICE void enter(int first, int cols) {
    active = group < groups && first + place < places;
    const int flat = active ? (first + place) * V : 0;
    row = flat / cols;
    column = flat - row * cols;
    split = cols - column < V ? cols - column : V;
  }
  FASTCAM_DEVICE int column_of(int e, int cols) const {
    return e < split ? column + e : column + e - cols;
  }
};

// ---- sums over rows: put(t, c, sum_r weight[t, r] M[r, c]) --------------------------------------

// Without weights (data null) each is 1. `scratch`: V values for each thread. put() is called by
// one thread, and the block's threads see what it did. Begins and ends with a barrier.
template <int V, int kTargets, class S, class Acc, class Put>
FASTCAM_DEVICE void column_sums_of(const Matrix<const S>& m, const Factors<const Acc>& weight,
                                   int targets, Acc* scratch, const Put& put) {
  constexpr int kLoads = kInFlight<S, V, kTargets>;
  using Vector = Vec<S, V>;
  const int thread = int(threadIdx.x);
  const int threads = int(blockDim.x);
  Walk<V> walk(m);
#pragma unroll 1
  for (int first = 0; first < walk.places; first += walk.width) {
    walk.enter(first, m.cols);
    const unsigned from = unsigned(walk.row) * unsigned(m.pitch) + unsigned(walk.column);
    const int end = walk.active ? walk.folds : 0;
    Acc sum[kTargets][V] = {};
#pragma unroll 1
    for (int q = kLoads * walk.group; q < end; q += kLoads * walk.groups) {
      Vector x[kLoads] = {};
#pragma unroll
      for (int u = 0; u < kLoads; ++u) {
        if (q + u < end)
          x[u] = load_vector<V>(m.data, from + unsigned(q + u) * unsigned(walk.step));
      }
      if (weight.data == nullptr) {
#pragma unroll
        for (int u = 0; u < kLoads; ++u) {
#pragma unroll
          for (int e = 0; e < V; ++e) sum[0][e] += to_acc(x[u].lane[e]);
        }
        continue;
      }
#pragma unroll
      for (int t = 0; t < kTargets; ++t) {
#pragma unroll
        for (int u = 0; u < kLoads; ++u) {
          const Acc* w = weight.of(t) + (q + u) * walk.fold + walk.row;
          const Acc low = q + u < end ? w[0] : Acc(0);
          const Acc high = V > 1 && q + u < end ? w[1] : Acc(0);
#pragma unroll
          for (int e = 0; e < V; ++e) {
            sum[t][e] += (e < walk.split ? low : high) * to_acc(x[u].lane[e]);
          }
        }
      }
    }
    // Columns from places, one target at a time.
    const int left = walk.places - first;
    const int held = (left < walk.width ? left : walk.width) * V;
    const int columns = walk.fold > 1 ? m.cols : held;
#pragma unroll
    for (int t = 0; t < kTargets; ++t) {
      __syncthreads();
      if (walk.active) {
#pragma unroll
        for (int e = 0; e < V; ++e) scratch[thread * V + e] = sum[t][e];
      }
      __syncthreads();
      if (t >= targets) continue;
#pragma unroll 1
      for (int c = thread; c < columns; c += threads) {
        Acc total = Acc(0);
#pragma unroll 1
        for (int at = c; at < held; at += m.cols) {
#pragma unroll 4
          for (int g = 0; g < walk.groups; ++g) total += scratch[g * walk.width * V + at];
        }
        put(t, first * V + c, total);
      }
    }
  }
  __syncthreads();
}

// ---- sums over columns: put(t, r, sum_c weight[t, c] M[r, c]) -----------------------------------

// As column_sums_of(); a few neighbouring lanes, a subwarp, have a row, and several rows at once.
template <int V, int kTargets, class S, class Acc, class Put>
FASTCAM_DEVICE void row_sums_of(const Matrix<const S>& m, const Factors<const Acc>& weight,
                                int targets, const Put& put) {
  constexpr int kRows = 2;  // at once
  constexpr int kLoads = kInFlight<S, V, kTargets> / kRows;
  constexpr int kLeast = kSectorBytes / int(sizeof(S) * V);  // lanes that read a whole sector
  using Vector = Vec<S, V>;
  const int thread = int(threadIdx.x);
  const int vectors = m.cols / V;
  int lanes = 1;
  while (lanes < kWarp && lanes < vectors && (lanes < kLeast || lanes * kLoads < vectors)) {
    lanes *= 2;
  }
  const int subwarps = int(blockDim.x) / lanes;
  const int lane = thread & (lanes - 1);
#pragma unroll 1
  for (int first = 0; first < m.rows; first += kRows * subwarps) {
    const int row = first + thread / lanes;
    Acc sum[kRows][kTargets] = {};
#pragma unroll 1
    for (int begin = lane; begin < vectors; begin += kLoads * lanes) {
      Vector x[kRows][kLoads] = {};
#pragma unroll
      for (int u = 0; u < kRows; ++u) {
        const int r = row + u * subwarps;
        const unsigned from = unsigned(r) * unsigned(m.pitch);
#pragma unroll
        for (int i = 0; i < kLoads; ++i) {
          const int at = begin + i * lanes;
          if (r < m.rows && at < vectors) x[u][i] = load_vector<V>(m.data, from + unsigned(at * V));
        }
      }
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        const int at = begin + i * lanes < vectors ? begin + i * lanes : vectors;  // there: zeros
#pragma unroll
        for (int t = 0; t < kTargets; ++t) {
          Acc w[V];
          if (weight.data == nullptr) {
#pragma unroll
            for (int e = 0; e < V; ++e) w[e] = Acc(1);
          } else {
            read_run(weight.of(t) + at * V, w);
          }
#pragma unroll
          for (int u = 0; u < kRows; ++u) {
#pragma unroll
            for (int e = 0; e < V; ++e) sum[u][t] += w[e] * to_acc(x[u][i].lane[e]);
          }
        }
      }
    }
#pragma unroll
    for (int u = 0; u < kRows; ++u) {
      const int r = row + u * subwarps;
#pragma unroll
      for (int t = 0; t < kTargets; ++t) {
        const Acc total = subwarp_reduce(sum[u][t], lanes, [](Acc a, Acc b) { return a + b; });
        if (lane == 0 && r < m.rows && t < targets) put(t, r, total);
      }
    }
  }
  __syncthreads();
}

// Both, in vectors where the matrix allows it.
template <int kTargets, class S, class Acc, class Put>
FASTCAM_DEVICE void sums_of(const Matrix<const S>& m, bool of_columns,
                            const Factors<const Acc>& weight, int targets, Acc* scratch,
                            const Put& put) {
  constexpr int kVector = kLanesOf<S, kTargets>;
  constexpr int kPair = sizeof(S) == 2 ? 2 : 1;  // four bytes at least, if they can be
  if (of_columns) {
    if (in_folds<kVector>(m)) {
      column_sums_of<kVector, kTargets>(m, weight, targets, scratch, put);
    } else {
      column_sums_of<1, kTargets>(m, weight, targets, scratch, put);
    }
  } else if (in_rows<kVector>(m)) {
    row_sums_of<kVector, kTargets>(m, weight, targets, put);
  } else if (kPair > 1 && in_rows<kPair>(m)) {
    row_sums_of<kPair, kTargets>(m, weight, targets, put);
  } else {
    row_sums_of<1, kTargets>(m, weight, targets, put);
  }
}

// ---- outer product: M[r, c] = sum_t row[t, r] column[t, c] --------------------------------------

template <int V, int kTargets, class S, class Acc>
FASTCAM_DEVICE void outer_product_of(const Matrix<S>& m, const Factors<const Acc>& row,
                                     const Factors<const Acc>& column) {
  constexpr int kFolds = V > 4 ? 2 : 4;  // at once
  using Vector = Vec<S, V>;
  const int targets = kTargets == 1 ? 1 : row.count;
  Walk<V> walk(m);
#pragma unroll 1
  for (int first = 0; first < walk.places; first += walk.width) {
    walk.enter(first, m.cols);
    if (!walk.active) continue;
    S* out = m.data + walk.row * m.pitch + walk.column;
    Acc factor[kTargets][V];
    const auto read_columns = [&](int t0) {
#pragma unroll
      for (int t = 0; t < kTargets; ++t) {
#pragma unroll
        for (int e = 0; e < V; ++e) {
          factor[t][e] = t0 + t < targets ? column.of(t0 + t)[walk.column_of(e, m.cols)] : Acc(0);
        }
      }
    };
    if (targets <= kTargets) read_columns(0);
#pragma unroll 1
    for (int q = kFolds * walk.group; q < walk.folds; q += kFolds * walk.groups) {
      Acc sum[kFolds][V] = {};
#pragma unroll 1
      for (int t0 = 0; t0 < targets; t0 += kTargets) {
        if (targets > kTargets) read_columns(t0);
#pragma unroll
        for (int t = 0; t < kTargets; ++t) {
          if (t0 + t >= targets) continue;
          const Acc* f = row.of(t0 + t);
#pragma unroll
          for (int u = 0; u < kFolds; ++u) {
            const int r = (q + u < walk.folds ? q + u : q) * walk.fold + walk.row;
            const Acc low = f[r];
            const Acc high = V > 1 ? f[r + 1] : Acc(0);
#pragma unroll
            for (int e = 0; e < V; ++e) sum[u][e] += (e < walk.split ? low : high) * factor[t][e];
          }
        }
      }
#pragma unroll
      for (int u = 0; u < kFolds; ++u) {
        if (q + u >= walk.folds) continue;
        Vector v;
#pragma unroll
        for (int e = 0; e < V; ++e) v.lane[e] = from_acc<S>(sum[u][e]);
        store(reinterpret_cast<Vector*>(out + (q + u) * walk.step), v);
      }
    }
  }
}

template <int kTargets, class S, class Acc>
FASTCAM_DEVICE void outer_product(const Matrix<S>& m, const Factors<const Acc>& row,
                                  const Factors<const Acc>& column) {
  constexpr int kVector = kLanesOf<S, kTargets>;
  if (in_folds<kVector>(m)) {
    outer_product_of<kVector, kTargets>(m, row, column);
  } else {
    outer_product_of<1, kTargets>(m, row, column);
  }
}

}  // namespace fastcam
