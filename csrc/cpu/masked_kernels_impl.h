// The masked products on the CPU, for the instruction set FASTCAM_ISA.
//
// A block is kVectors vectors wide: what is summed stays in that many registers, and each entry
// that takes part costs one fused multiply-add a vector with the other factor in the first-level
// cache. That factor is a tile of kTile rows, copied there: the rows of a matrix whose width is a
// multiple of 1024 would fall into the same few sets of the cache.
#include "masked_kernels.h"
#include "vec.h"

namespace fastcam::FASTCAM_ISA {

inline constexpr int kVectors = 8;
inline constexpr int64_t kBlockBytes = kVectors * FASTCAM_VECTOR_BYTES;
inline constexpr int64_t kTile = kMaskedTileBytes / kBlockBytes;
// Blocks of columns that are worked on in turns, so that a page is met once: as many as fit.
inline constexpr int64_t kMaxGroup = 8;
inline int64_t group_of(int64_t rows) {
  const int64_t fit = kMaskedGroupBytes / (kBlockBytes * rows);
  return fit < 1 ? 1 : fit > kMaxGroup ? kMaxGroup : fit;
}
FASTCAM_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

template <class Acc>
inline constexpr int64_t kWidth = kVectors * kLanes<Acc>;

template <class Acc>
struct Sums {
  Vec<Acc> v[kVectors];
  FASTCAM_INLINE void read(const Acc* p) {
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i) v[i] = load(p + i * kLanes<Acc>);
  }
  FASTCAM_INLINE void clear() {
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i) v[i] = Vec<Acc>{};
  }
  static FASTCAM_INLINE void zero(Acc* p) {
    Sums none;
    none.clear();
    none.write(p);
  }
  FASTCAM_INLINE void write(Acc* p) const {
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i) store(p + i * kLanes<Acc>, v[i]);
  }
  FASTCAM_INLINE void add(Acc factor, const Acc* p) {
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i) v[i] += factor * load(p + i * kLanes<Acc>);
  }
  FASTCAM_INLINE Vec<Acc> dot(const Acc* p) const {
    Vec<Acc> even = v[0] * load(p), odd = v[1] * load(p + kLanes<Acc>);
#pragma GCC unroll 8
    for (int i = 2; i < kVectors; i += 2) {
      even += v[i] * load(p + i * kLanes<Acc>);
      odd += v[i + 1] * load(p + (i + 1) * kLanes<Acc>);
    }
    return even + odd;
  }
};

// Columns of one block: all of them, or the first few, filled up with zeros.
template <class Acc>
struct Columns {
  int64_t first, count;
  Columns(int64_t block, int64_t width)
      : first(block * kWidth<Acc>),
        count(width - first < kWidth<Acc> ? width - first : kWidth<Acc>) {}

  FASTCAM_INLINE void copy(const Acc* row, Acc* to) const {
    if (count == kWidth<Acc>) {
      Sums<Acc> all;
      all.read(row + first);
      all.write(to);
    } else {
      for (int64_t i = 0; i < kWidth<Acc>; ++i) to[i] = i < count ? row[first + i] : Acc(0);
    }
  }
  FASTCAM_INLINE void copy_back(const Acc* from, Acc* row) const {
    for (int64_t i = 0; i < count; ++i) row[first + i] = from[i];
  }
};

FASTCAM_INLINE const void* bytes_after(const void* p, int64_t bytes) {
  return reinterpret_cast<const void*>(uintptr_t(p) + uintptr_t(bytes));
}

// Asks for the next tile of W, line by line, while this one is multiplied. The processor has some
// sixteen requests in flight: if there are less than kMaskedPad entries for each line, waiting for
// them takes longer than reading the tile when it is its turn.
class NextTile {
public:
  // `entries`: those of one block of this tile.
  NextTile(const void* from, int64_t row_bytes, int64_t rows, int64_t blocks, int64_t entries)
      : row_(from), row_bytes_(row_bytes),
        rows_(rows * kBlockBytes / 64 * kMaskedPad <= entries ? rows : 0),
        span_(blocks * kBlockBytes) {}
  FASTCAM_INLINE void ask() {
    if (rows_ <= 0) return;
    __builtin_prefetch(bytes_after(row_, at_), 0, 2);
    at_ += 64;
    if (at_ >= span_) {
      at_ = 0;
      row_ = bytes_after(row_, row_bytes_);
      --rows_;
    }
  }

private:
  const void* row_;
  int64_t row_bytes_, rows_, span_, at_ = 0;
};

// One list after another of a cell. body(line, k0, k1, n): the entries; the how many-th list.
template <class Body>
FASTCAM_INLINE void for_each_line(const MaskedLists& lists, int64_t cell, const Body& body) {
  int64_t k = cell * lists.lines_per_cell * lists.capacity;
  const int64_t first = cell * lists.lines_per_cell;
  for (int64_t n = 0; n < lists.lines_per_cell && lists.lines[first + n] >= 0; ++n) {
    const int64_t begin = k;
    k += lists.counts[first + n];
    body(int64_t(lists.lines[first + n]), begin, k, n);
  }
}

// The entries of some cells, next to each other.
FASTCAM_INLINE int64_t entries_of(const MaskedLists& lists, int64_t cell, int64_t cells) {
  int64_t sum = 0;
  for (int64_t c = cell; c < cell + cells; ++c) {
    for_each_line(lists, c, [&](int64_t, int64_t from, int64_t to, int64_t) { sum += to - from; });
  }
  return sum;
}

// ---- v @ W
// ---------------------------------------------------------------------------------------

// sum += the entries' values times their rows of the tile.
template <class Acc>
FASTCAM_INLINE void add_entries(Sums<Acc>& sum, const MaskedLists& lists, int64_t begin,
                                int64_t end, const Acc* tile, const auto& meanwhile) {
  const Acc* values = static_cast<const Acc*>(lists.values);
  for (int64_t k = begin; k < end; k += kMaskedPad) {
    meanwhile();
#pragma GCC unroll 4
    for (int64_t i = k; i < k + kMaskedPad; ++i) {
      sum.add(values[i], tile + int64_t(lists.indices[i]) * kWidth<Acc>);
    }
  }
}

template <class Acc>
void masked_product(const MaskedProduct& op, int64_t begin, int64_t end, void* scratch) {
  const auto [rows, units, width] = op.shape;
  const MaskedLists lists = op.lists;
  const Acc* weight = static_cast<const Acc*>(op.weight);
  const int64_t group = group_of(rows);
  const int64_t row_tiles = (rows + kTile - 1) / kTile;
  Acc* tile = static_cast<Acc*>(scratch);        // [kTile + 1, kWidth], the last one 0
  Acc* sums = tile + (kTile + 1) * kWidth<Acc>;  // [group, R, kWidth]
  Sums<Acc>::zero(tile + kTile * kWidth<Acc>);
  for (int64_t b0 = begin; b0 < end; b0 += group) {
    const int64_t b1 = least(b0 + group, end);
    for (int64_t j0 = 0; j0 < units; j0 += kTile) {
      const int64_t count = least(units - j0, kTile);
      NextTile next(weight + (j0 + kTile) * width + b0 * kWidth<Acc>, width * int64_t(sizeof(Acc)),
                    least(kTile, units - j0 - kTile), b1 - b0,
                    entries_of(lists, j0 / kTile * row_tiles, row_tiles));
      for (int64_t b = b0; b < b1; ++b) {
        const Columns<Acc> columns(b, width);
        for (int64_t j = 0; j < count; ++j) {
          columns.copy(weight + (j0 + j) * width, tile + j * kWidth<Acc>);
        }
        for (int64_t t = 0; t < row_tiles; ++t) {
          for_each_line(lists, j0 / kTile * row_tiles + t,
                        [&](int64_t r, int64_t from, int64_t to, int64_t) FASTCAM_BODY {
                          Acc* out = sums + ((b - b0) * rows + t * kTile + r) * kWidth<Acc>;
                          Sums<Acc> sum;
                          if (j0 == 0) {
                            sum.clear();
                          } else {
                            sum.read(out);
                          }
                          add_entries(sum, lists, from, to, tile,
                                      [&]() FASTCAM_BODY { next.ask(); });
                          sum.write(out);
                        });
        }
      }
    }
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t b = b0; b < b1; ++b) {
        Columns<Acc>(b, width).copy_back(sums + ((b - b0) * rows + r) * kWidth<Acc>,
                                         static_cast<Acc*>(op.out) + r * width);
      }
    }
  }
}

// ---- what is done for each row of W: its gradient, and dot products with it
// -------------------------------------------------------------------------------------------

// Lists ahead that a row is asked for, straight into the first-level cache.
inline constexpr int64_t kUnitsAhead = 16;

template <bool kWrite>
FASTCAM_INLINE void prefetch_block(const void* p) {
#pragma GCC unroll 8
  for (int64_t i = 0; i < kBlockBytes; i += 64) __builtin_prefetch(bytes_after(p, i), kWrite, 3);
}

// Work is handed out by the tile of units. body(j, first entry, last, is it the first tile of
// rows, columns, tile of g), for every unit, tile of rows and block of columns.
template <class Acc, bool kWrite, class Body>
FASTCAM_INLINE void for_each_unit(const MaskedShape& shape, const MaskedLists& lists,
                                  const Acc* grad, const Acc* matrix, int64_t begin, int64_t end,
                                  void* scratch, const Body& body) {
  const auto [rows, units, width] = shape;
  const int64_t blocks = (width + kWidth<Acc> - 1) / kWidth<Acc>;
  const int64_t row_tiles = (rows + kTile - 1) / kTile;
  const int64_t group = group_of(row_tiles * kTile);
  // [group, tiles of rows, kTile + 1, kWidth], the last row of each tile 0.
  const auto tile_at = [&](int64_t b, int64_t t) FASTCAM_BODY {
    return static_cast<Acc*>(scratch) + (b * row_tiles + t) * (kTile + 1) * kWidth<Acc>;
  };
  for (int64_t b0 = 0; b0 < blocks; b0 += group) {
    const int64_t b1 = least(b0 + group, blocks);
    for (int64_t b = b0; b < b1; ++b) {
      for (int64_t t = 0; t < row_tiles; ++t) {
        Acc* tile = tile_at(b - b0, t);
        for (int64_t r = 0; r < least(kTile, rows - t * kTile); ++r) {
          Columns<Acc>(b, width).copy(grad + (t * kTile + r) * width, tile + r * kWidth<Acc>);
        }
        Sums<Acc>::zero(tile + kTile * kWidth<Acc>);
      }
    }
    for (int64_t a = begin; a < end; ++a) {
      const int64_t j0 = a * kTile, j1 = least(j0 + kTile, units);
      const int32_t* lines = lists.lines + a * row_tiles * lists.lines_per_cell;
      const int32_t* lines_next = lines + row_tiles * lists.lines_per_cell;
      for (int64_t b = b0; b < b1; ++b) {
        const Columns<Acc> columns(b, width);
        // The row, or the row of the next block, that comes kUnitsAhead lists later.
        const auto ask = [&](int64_t n) FASTCAM_BODY {
          n += kUnitsAhead;
          if (n < j1 - j0) {
            prefetch_block<kWrite>(matrix + (j0 + lines[n]) * width + columns.first);
            return;
          }
          n -= j1 - j0;
          const bool here = b + 1 < b1;
          if (n < (here ? j1 - j0 : a + 1 < end ? least(units - j1, kTile) : 0)) {
            prefetch_block<kWrite>(matrix + (here ? j0 + lines[n] : j1 + lines_next[n]) * width +
                                   (here ? b + 1 : b0) * kWidth<Acc>);
          }
        };
        for (int64_t t = 0; t < row_tiles; ++t) {
          const Acc* tile = tile_at(b - b0, t);
          for_each_line(lists, a * row_tiles + t,
                        [&](int64_t line, int64_t from, int64_t to, int64_t n) FASTCAM_BODY {
                          if (t == 0) ask(n);
                          body(j0 + line, from, to, t == 0, columns, tile);
                        });
        }
      }
    }
  }
}

template <class Acc>
void masked_outer(const MaskedOuter& op, int64_t begin, int64_t end, void* scratch) {
  const MaskedLists lists = op.lists;
  Acc* out = static_cast<Acc*>(op.out);
  const int64_t width = op.shape.width;
  for_each_unit<Acc, true>(op.shape, lists, static_cast<const Acc*>(op.grad), out, begin, end,
                           scratch,
                           [&](int64_t j, int64_t from, int64_t to, bool first,
                               const Columns<Acc>& columns, const Acc* tile) FASTCAM_BODY {
                             Acc* row = out + j * width;
                             const bool whole = columns.count == kWidth<Acc>;
                             Acc part[kWidth<Acc>];
                             Sums<Acc> sum;
                             if (first && !op.add) {
                               sum.clear();
                             } else if (whole) {
                               sum.read(row + columns.first);
                             } else {
                               columns.copy(row, part);
                               sum.read(part);
                             }
                             add_entries(sum, lists, from, to, tile, []() FASTCAM_BODY {});
                             if (whole) {
                               sum.write(row + columns.first);
                             } else {
                               sum.write(part);
                               columns.copy_back(part, row);
                             }
                           });
}

template <class Acc>
void masked_dots(const MaskedDots& op, int64_t begin, int64_t end, void* scratch) {
  const auto [rows, units, width] = op.shape;
  const MaskedLists lists = op.lists;
  const Acc* weight = static_cast<const Acc*>(op.weight);
  Acc* sums = static_cast<Acc*>(op.sums);
  const int64_t row_tiles = (rows + kTile - 1) / kTile;
  for (int64_t cell = begin * row_tiles; cell < end * row_tiles; ++cell) {
    for_each_line(lists, cell, [&](int64_t, int64_t from, int64_t to, int64_t) {
      for (int64_t k = from; k < to; ++k) sums[k] = 0;
    });
  }
  for_each_unit<Acc, false>(
      op.shape, lists, static_cast<const Acc*>(op.grad), weight, begin, end, scratch,
      [&](int64_t j, int64_t from, int64_t to, bool, const Columns<Acc>& columns, const Acc* tile)
          FASTCAM_BODY {
            Sums<Acc> row;
            if (columns.count == kWidth<Acc>) {
              row.read(weight + j * width + columns.first);
            } else {
              Acc part[kWidth<Acc>];
              columns.copy(weight + j * width, part);
              row.read(part);
            }
            for (int64_t k = from; k < to; k += 4) {
              Vec<Acc> four[4];
#pragma GCC unroll 4
              for (int i = 0; i < 4; ++i) {
                four[i] = row.dot(tile + int64_t(lists.indices[k + i]) * kWidth<Acc>);
              }
              add_four_sums<Acc>(four, sums + k);
            }
          });
  Acc* out = static_cast<Acc*>(op.out);
  for (int64_t cell = begin * row_tiles; cell < end * row_tiles; ++cell) {
    for_each_line(lists, cell, [&](int64_t line, int64_t from, int64_t to, int64_t) {
      const int64_t j = cell / row_tiles * kTile + line, r0 = cell % row_tiles * kTile;
      for (int64_t k = from; k < to; ++k) {
        if (lists.indices[k] < kTile) out[(r0 + lists.indices[k]) * units + j] = sums[k];
      }
    });
  }
}

// ---- run-time types become compile-time ones
// -----------------------------------------------------

template <class F>
FASTCAM_INLINE void with_acc(ScalarKind kind, const F& f) {
  if (kind == ScalarKind::kDouble) {
    f(double{});
  } else {
    f(float{});
  }
}

const MaskedKernels kMaskedKernels = {
    kTile,
    kBlockBytes,
    [](const MaskedProduct& op, ScalarKind kind, int64_t begin, int64_t end, void* scratch) {
      with_acc(kind, [&](auto acc) { masked_product<decltype(acc)>(op, begin, end, scratch); });
    },
    [](const MaskedOuter& op, ScalarKind kind, int64_t begin, int64_t end, void* scratch) {
      with_acc(kind, [&](auto acc) { masked_outer<decltype(acc)>(op, begin, end, scratch); });
    },
    [](const MaskedDots& op, ScalarKind kind, int64_t begin, int64_t end, void* scratch) {
      with_acc(kind, [&](auto acc) { masked_dots<decltype(acc)>(op, begin, end, scratch); });
    },
};

}  // namespace fastcam::FASTCAM_ISA
