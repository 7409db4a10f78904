// Three primitives on a matrix in global memory, each for one block of threads: sums over its rows,
// sums over its columns, and an outer product written out. grad_cam and the losses are made
// of these: channels-first activations are a matrix of channels x cells, channels-last ones of
// cells x channels.
//
// The matrix is walked in aligned 16-byte vectors, whatever its width: with V values a vector and g
// = gcd(V, width), V/g rows are a whole number of vectors, a *period*. A thread keeps its slot
// within the period, so its V columns never change, and a vector holds values of two rows at most.
// The first and the last vector may be cut by the ends of the matrix; those alone are read value by
// value.
#pragma once

#include "cuda/device.cuh"

namespace fastcam {

// Value (r, c) is data[r * pitch + c].
template <class S>
struct Matrix {
  S* data;
  int rows;
  int cols;
  int pitch;
};

// Can the matrix be walked in vectors of V, two rows a vector at most?
template <int V, class S>
FASTCAM_DEVICE bool walks_in_vectors(const Matrix<S>& m) {
  if (m.pitch == m.cols) return m.cols >= V;
  return m.cols % V == 0 && m.pitch % V == 0 &&
         reinterpret_cast<uintptr_t>(m.data) % (sizeof(S) * V) == 0;
}

// One value per row or per column for each of `count` targets, in shared memory or in global
// memory.
template <class Acc>
struct Factors {
  Acc* data;
  int stride;
  int count;
  FASTCAM_DEVICE Acc* of(int t) const { return data + int64_t(t) * stride; }
};

// Where one vector lies. Its values before Walk::split are of `row`, the others of row + 1.
struct Window {
  int flat;    // index of its first value in the matrix as if rows were packed; may be < 0
  int row;     // may be -1
  int offset;  // from Matrix::data
};

// The geometry of a walk, and the calling thread's place in it.
template <int V>
struct Walk {
  int rows, cols, total;  // total = rows * cols
  int period_stride;      // from a period to the next, in memory
  int misalignment;       // values between the aligned address below data and data
  int period_rows;        // V / g
  int period_vectors;     // cols / g
  int tile;               // slots of the period handled at a time: all of them, or one a thread
  int groups;             // periods handled side by side (1 if tiled)
  int periods;
  int group, slot_in_tile;

  // of the tile
  int slots;
  bool active;  // has the thread a slot?
  int column;   // of the thread's first value
  int split;
  int row_in_period, flat_in_period;

  template <class S>
  FASTCAM_DEVICE explicit Walk(const Matrix<S>& m)
      : rows(m.rows), cols(m.cols), total(m.rows * m.cols) {
    misalignment = int(reinterpret_cast<uintptr_t>(m.data) % (sizeof(S) * V)) / int(sizeof(S));
    const int pow2 = cols & -cols;
    const int g = pow2 < V ? pow2 : V;
    period_rows = V / g;
    period_vectors = cols / g;
    period_stride = period_rows * m.pitch;
    const int threads = int(blockDim.x);
    const int thread = int(threadIdx.x);
    tile = period_vectors < threads ? period_vectors : threads;
    groups = tiled() ? 1 : threads / tile;
    group = thread / tile;
    slot_in_tile = thread - group * tile;
    const int period_values = period_vectors * V;
    periods = (total + misalignment + period_values - 1) / period_values;
  }
  FASTCAM_DEVICE bool tiled() const { return tile < period_vectors; }
  FASTCAM_DEVICE int steps(int per_step) const {
    return (periods + groups * per_step - 1) / (groups * per_step);
  }
  FASTCAM_DEVICE void enter_tile(int first_slot) {
    slots = period_vectors - first_slot < tile ? period_vectors - first_slot : tile;
    active = group < groups && slot_in_tile < slots;
    flat_in_period = (first_slot + slot_in_tile) * V - misalignment;
    row_in_period = flat_in_period < 0 ? -1 : flat_in_period / cols;
    column = flat_in_period - row_in_period * cols;
    split = cols - column < V ? cols - column : V;
    if (!active) {  // past the end, in every period
      flat_in_period = total;
      row_in_period = rows;
    }
  }
  FASTCAM_DEVICE Window window(int period) const {
    return {period * period_vectors * V + flat_in_period, period * period_rows + row_in_period,
            period * period_stride + flat_in_period};
  }
  FASTCAM_DEVICE bool whole(const Window& w) const { return w.flat >= 0 && w.flat + V <= total; }
  // Partly outside: of all vectors, only the first and the last can be.
  FASTCAM_DEVICE bool cut(const Window& w) const {
    return V > 1 && w.flat > -V && w.flat < total && !whole(w);
  }
  FASTCAM_DEVICE bool inside(const Window& w, int e) const {
    return w.flat + e >= 0 && w.flat + e < total;
  }
  FASTCAM_DEVICE bool has(int row) const { return unsigned(row) < unsigned(rows); }
  // The column of value e of the thread's vectors.
  FASTCAM_DEVICE int column_of(int e) const { return e < split ? column + e : column + e - cols; }
};

// A whole vector; 0 if it is not whole.
template <int V, class S>
FASTCAM_DEVICE Vec<S, V> read_whole(const Walk<V>& walk, const S* data, const Window& w) {
  Vec<S, V> x{};
  if (walk.whole(w)) x = load(reinterpret_cast<const Vec<S, V>*>(data + w.offset));
  return x;
}
// A cut vector; 0 for what is outside.
template <int V, class S>
FASTCAM_DEVICE Vec<S, V> read_cut(const Walk<V>& walk, const S* data, const Window& w) {
  Vec<S, V> x{};
#pragma unroll
  for (int e = 0; e < V; ++e) {
    if (walk.inside(w, e)) x.lane[e] = load(data + w.offset + e);
  }
  return x;
}

// ---- sums over rows: to[t, c] = sum_r weight[t, r] M[r, c] --------------------------------------

// Shared memory, in values of Acc.
template <int V>
constexpr int column_sums_scratch(int threads) {
  return threads * V;
}

// Without weights (data null) each is 1. The caller puts a barrier before it reads `to`.
template <int V, int kTargets, int kUnroll, class S, class Acc>
FASTCAM_DEVICE void column_sums(const Matrix<const S>& m, const Factors<const Acc>& weight,
                                const Factors<Acc>& to, Acc* scratch) {
  Walk<V> walk(m);
  const int thread = int(threadIdx.x);
  const int threads = int(blockDim.x);
  const bool partial = walk.tiled();  // a tile meets only some of the columns
  if (partial) {
#pragma unroll 1
    for (int c = thread; c < walk.cols; c += threads) {
#pragma unroll 1
      for (int t = 0; t < to.count; ++t) store_own(to.of(t) + c, Acc(0));
    }
  }
#pragma unroll 1
  for (int first = 0; first < walk.period_vectors; first += walk.tile) {
    walk.enter_tile(first);
    Acc sum[kTargets][V];
#pragma unroll
    for (int t = 0; t < kTargets; ++t) {
#pragma unroll
      for (int e = 0; e < V; ++e) sum[t][e] = Acc(0);
    }
    // What lies outside the matrix is 0, and so is its weight: 0 * inf never happens.
    const auto add = [&](const Vec<S, V>& x, int row) {
      const bool has_low = walk.has(row);
      const bool has_high = V > 1 && walk.has(row + 1);
#pragma unroll
      for (int t = 0; t < kTargets; ++t) {
        Acc low = Acc(1);
        Acc high = Acc(1);
        if (weight.data != nullptr) {
          const Acc* at = weight.of(t) + row;
          low = has_low && t < weight.count ? load_own(at) : Acc(0);
          high = has_high && t < weight.count ? load_own(at + 1) : Acc(0);
        }
#pragma unroll
        for (int e = 0; e < V; ++e) sum[t][e] += (e < walk.split ? low : high) * to_acc(x.lane[e]);
      }
    };
#pragma unroll 1
    for (int period = walk.group; period < walk.periods; period += kUnroll * walk.groups) {
      Vec<S, V> x[kUnroll];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        x[u] = read_whole(walk, m.data, walk.window(period + u * walk.groups));
      }
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) add(x[u], walk.window(period + u * walk.groups).row);
    }
#pragma unroll 1
    for (int period = 0; V > 1 && period < walk.periods;) {
      const Window w = walk.window(period);
      if (walk.group == period % walk.groups && walk.cut(w)) add(read_cut(walk, m.data, w), w.row);
      period = period + 1 < walk.periods ? walk.periods - 1 : walk.periods;  // the first, the last
    }
    // Columns from slots, one target at a time.
#pragma unroll 1
    for (int t = 0; t < to.count; ++t) {
      __syncthreads();
      if (walk.active) {
#pragma unroll
        for (int k = 0; k < kTargets; ++k) {
          if (k != t) continue;  // registers cannot be indexed
#pragma unroll
          for (int e = 0; e < V; ++e) scratch[thread * V + e] = sum[k][e];
        }
      }
      __syncthreads();
#pragma unroll 1
      for (int c = thread; c < walk.cols; c += threads) {
        Acc total = Acc(0);
        // Position of column c in row r of the period, among the tile's slots.
        int at = c + walk.misalignment - first * V - walk.cols;
#pragma unroll 1
        for (int r = -1; r < walk.period_rows; ++r, at += walk.cols) {
          if (at < 0 || at >= walk.slots * V) continue;
#pragma unroll 1
          for (int g = 0; g < walk.groups; ++g) total += scratch[g * walk.tile * V + at];
        }
        Acc* out = to.of(t) + c;
        store_own(out, partial ? load_own(out) + total : total);
      }
    }
  }
  __syncthreads();  // scratch is free
}

// ---- sums over columns: to[t, r] = sum_c weight[t, c] M[r, c] -----------------------------------

template <int V, int kTargets, int kUnroll>
constexpr int row_sums_scratch(int threads) {
  return 2 * kTargets * (V > 1 ? 2 : 1) * kUnroll * threads;
}

// As column_sums().
template <int V, int kTargets, int kUnroll, class S, class Acc>
FASTCAM_DEVICE void row_sums(const Matrix<const S>& m, const Factors<const Acc>& weight,
                             const Factors<Acc>& to, Acc* scratch) {
  constexpr int kParts = V > 1 ? 2 : 1;  // of the vector's first row, of its second
  Walk<V> walk(m);
  const int thread = int(threadIdx.x);
  const int threads = int(blockDim.x);
  const int capacity = kUnroll * threads;
  const int buffer_values = kTargets * kParts * capacity;
  const bool partial =
      walk.tiled() || walk.misalignment > 0;  // a row's vectors lie in several steps
  if (partial) {
#pragma unroll 1
    for (int r = thread; r < walk.rows; r += threads) {
#pragma unroll 1
      for (int t = 0; t < to.count; ++t) store_own(to.of(t) + r, Acc(0));
    }
  }
  // A step's vectors are one contiguous run, or kUnroll runs if the period is tiled.
  const int runs = walk.tiled() ? kUnroll : 1;
  const int run_periods = walk.tiled() ? 1 : kUnroll * walk.groups;
  const int run_rows =
      run_periods * walk.period_rows + 1;  // a misaligned run starts in the row before
  // Neighbouring lanes that add up one row.
  const int row_vectors = walk.cols / V + 2;
  int subwarp_bits = 5;
  while (subwarp_bits > 0 &&
         ((threads >> subwarp_bits) < runs * run_rows || (1 << subwarp_bits) >= 2 * row_vectors)) {
    --subwarp_bits;
  }
  const int subwarp = 1 << subwarp_bits;
  const int rank = thread & (subwarp - 1);

  const int steps = walk.steps(kUnroll);
  int buffer = 0;
#pragma unroll 1
  for (int first = 0; first < walk.period_vectors; first += walk.tile) {
    walk.enter_tile(first);
    // The row of the tile's first value within the period; -1 if its first vector begins in the row
    // before.
    const int tile_row =
        first == 0 ? (walk.misalignment > 0 ? -1 : 0) : (first * V - walk.misalignment) / walk.cols;
    Acc factor[kTargets][V];
#pragma unroll
    for (int t = 0; t < kTargets; ++t) {
#pragma unroll
      for (int e = 0; e < V; ++e) {
        factor[t][e] = Acc(1);
        if (weight.data != nullptr && walk.active && t < weight.count) {
          factor[t][e] = load_own(weight.of(t) + walk.column_of(e));
        }
      }
    }
    const auto period_of = [&](int step, int u) {
      return (step * kUnroll + u) * walk.groups + walk.group;
    };
    Vec<S, V> next[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      next[u] = read_whole(walk, m.data, walk.window(period_of(0, u)));
    }
#pragma unroll 1
    for (int step = 0; step < steps; ++step, buffer ^= 1) {
      Vec<S, V> x[kUnroll];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) x[u] = next[u];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {  // past the end this reads nothing
        next[u] = read_whole(walk, m.data, walk.window(period_of(step + 1, u)));
      }
      Acc* parts = scratch + buffer * buffer_values;
      if (walk.active) {
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) {
          const int at = (u * walk.groups + walk.group) * walk.slots + walk.slot_in_tile;
          const Window w = walk.window(period_of(step, u));
          if (walk.cut(w)) x[u] = read_cut(walk, m.data, w);
#pragma unroll
          for (int t = 0; t < kTargets; ++t) {
            Acc low = Acc(0);
            Acc high = Acc(0);
#pragma unroll
            for (int e = 0; e < V; ++e) {
              const Acc product = factor[t][e] * to_acc(x[u].lane[e]);
              if (e < walk.split) {
                low += product;
              } else {
                high += product;
              }
            }
            parts[t * kParts * capacity + at] = low;
            if constexpr (kParts == 2) parts[(t * kParts + 1) * capacity + at] = high;
          }
        }
      }
      __syncthreads();  // one is enough: the next step writes the other buffer
#pragma unroll 1
      for (int task0 = 0; task0 < runs * run_rows; task0 += threads >> subwarp_bits) {
        const int task = task0 + (thread >> subwarp_bits);
        const int run = runs == 1 ? 0 : task / run_rows;
        const int period = step * kUnroll * walk.groups + run * run_periods;
        const int run_begin = period * walk.period_vectors + first;
        const int run_end = run_begin + (walk.tiled() ? walk.slots : run_periods * walk.slots);
        const int row = period * walk.period_rows + tile_row + task - run * run_rows;
        const bool wanted = task < runs * run_rows && walk.has(row) &&
                            row * walk.cols < run_end * V - walk.misalignment;
        const int row_begin = wanted ? row * walk.cols + walk.misalignment : 0;
        const int row_last = int(unsigned(row_begin + walk.cols - 1) / V);
        const int row_first = int(unsigned(row_begin) / V);
        const bool shared_vector = unsigned(row_begin) % V != 0;  // second row of its first vector
        const int from = row_first < run_begin ? run_begin : row_first;
        const int to_vector = row_last < run_end ? row_last + 1 : run_end;
#pragma unroll 1
        for (int t = 0; t < to.count; ++t) {
          Acc total = Acc(0);
          if (wanted) {
            const Acc* low = parts + t * kParts * capacity + run * walk.slots - run_begin;
#pragma unroll 1
            for (int v = from + rank; v < to_vector; v += subwarp) {
              const bool second = kParts == 2 && shared_vector && v == row_first;
              total += second ? low[capacity + v] : low[v];
            }
          }
          total = subwarp_reduce(total, subwarp, [](Acc a, Acc b) { return a + b; });
          if (wanted && rank == 0) {
            Acc* out = to.of(t) + row;
            store_own(out, partial ? load_own(out) + total : total);
          }
        }
      }
    }
  }
  __syncthreads();  // scratch is free
}

// ---- outer product: M[r, c] = sum_t row[t, r] column[t, c] scale(t) -----------------------------

// One vector of it to memory.
template <int V, class S, class Acc>
FASTCAM_DEVICE void store_window(const Walk<V>& walk, S* data, const Window& w,
                                 const Acc (&sum)[V]) {
  Vec<S, V> out;
#pragma unroll
  for (int e = 0; e < V; ++e) out.lane[e] = from_acc<S>(sum[e]);
  if (walk.whole(w)) {
    store(reinterpret_cast<Vec<S, V>*>(data + w.offset), out);
  } else if (walk.cut(w)) {
#pragma unroll
    for (int e = 0; e < V; ++e) {
      if (walk.inside(w, e)) store(data + w.offset + e, out.lane[e]);
    }
  }
}

// For kTargets targets at most: their columns stay in registers.
template <int V, int kTargets, class S, class Acc, class Scale>
FASTCAM_DEVICE void outer_product(const Matrix<S>& m, const Factors<const Acc>& row_factor,
                                  const Factors<const Acc>& column_factor, const Scale& scale) {
  Walk<V> walk(m);
  const int targets = kTargets == 1 ? 1 : row_factor.count;
#pragma unroll 1
  for (int first = 0; first < walk.period_vectors; first += walk.tile) {
    walk.enter_tile(first);
    Acc factor[kTargets][V];
#pragma unroll
    for (int t = 0; t < kTargets; ++t) {
      const bool used = walk.active && t < targets;
      const Acc times = used ? scale(t) : Acc(0);
#pragma unroll
      for (int e = 0; e < V; ++e) {
        factor[t][e] = used ? times * load_own(column_factor.of(t) + walk.column_of(e)) : Acc(0);
      }
    }
#pragma unroll 1
    for (int period = walk.group; period < walk.periods; period += walk.groups) {
      const Window w = walk.window(period);
      const bool has_low = walk.has(w.row);
      const bool has_high = V > 1 && walk.has(w.row + 1);
      Acc sum[V];
#pragma unroll
      for (int e = 0; e < V; ++e) sum[e] = Acc(0);
#pragma unroll
      for (int t = 0; t < kTargets; ++t) {
        const Acc* at = row_factor.of(t) + w.row;
        const Acc low = t < targets && has_low ? load_own(at) : Acc(0);
        const Acc high = t < targets && has_high ? load_own(at + 1) : Acc(0);
#pragma unroll
        for (int e = 0; e < V; ++e) sum[e] += (e < walk.split ? low : high) * factor[t][e];
      }
      store_window(walk, m.data, w, sum);
    }
  }
}

// For any number of targets: a target's columns serve several rows before the next target's.
template <int V, class S, class Acc, class Scale>
FASTCAM_DEVICE void outer_product_of_many(const Matrix<S>& m, const Factors<const Acc>& row_factor,
                                          const Factors<const Acc>& column_factor,
                                          const Scale& scale) {
  constexpr int kRows = V > 4 ? 2 : 4;
  Walk<V> walk(m);
#pragma unroll 1
  for (int first = 0; first < walk.period_vectors; first += walk.tile) {
    walk.enter_tile(first);
    if (!walk.active) continue;
#pragma unroll 1
    for (int period = walk.group; period < walk.periods; period += kRows * walk.groups) {
      Acc sum[kRows][V];
#pragma unroll
      for (int u = 0; u < kRows; ++u) {
#pragma unroll
        for (int e = 0; e < V; ++e) sum[u][e] = Acc(0);
      }
#pragma unroll 1
      for (int t = 0; t < row_factor.count; ++t) {
        const Acc times = scale(t);
        const Acc* column = column_factor.of(t);
        Acc factor[V];
#pragma unroll
        for (int e = 0; e < V; ++e) factor[e] = times * load_own(column + walk.column_of(e));
#pragma unroll
        for (int u = 0; u < kRows; ++u) {
          const int row = walk.window(period + u * walk.groups).row;
          const Acc* at = row_factor.of(t) + row;
          const Acc low = walk.has(row) ? load_own(at) : Acc(0);
          const Acc high = V > 1 && walk.has(row + 1) ? load_own(at + 1) : Acc(0);
#pragma unroll
          for (int e = 0; e < V; ++e) sum[u][e] += (e < walk.split ? low : high) * factor[e];
        }
      }
#pragma unroll
      for (int u = 0; u < kRows; ++u) {
        store_window(walk, m.data, walk.window(period + u * walk.groups), sum[u]);
      }
    }
  }
}

}  // namespace fastcam
