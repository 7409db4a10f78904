// Products of a dense matrix W with rows v, most of whose entries a ReLU or a dropout has zeroed
// and so take no part; and the two gradients. One table of functions for each instruction set.
//
// R rows, J hidden units, I columns; float and double.
#pragma once

#include "storage.h"

namespace fastcam {

// The entries (row, unit) that take part, cut into cells of `tile` rows times `tile` units, and
// there into lists, a line each: of the entries of a row, or of a unit. Cell (a, b) of tile a of
// the units and tile b of the rows is number a * (tiles of rows) + b. Its lists lie one after
// another from entry `cell * lines_per_cell * capacity` on, filled up to multiples of kMaskedPad
// with the index `tile`, which stands for zeros (see masked_lists.h).
struct MaskedLists {
  int64_t lines_per_cell;
  int64_t capacity;        // of a list
  const int32_t* lines;    // [cells, lines_per_cell]: row or unit within its tile; -1 for no list
  const int32_t* counts;   // [cells, lines_per_cell], padded
  const int32_t* indices;  // of the other kind, unit or row, within its tile
  const void* values;      // as indices; null where none are needed
};
inline constexpr int64_t kMaskedPad = 4;

struct MaskedShape {
  int64_t rows;   // R, at most kMaskedRows
  int64_t units;  // J
  int64_t width;  // I
};

// out[r,:] = sum over the j that take part of v[r,j] W[j,:].
struct MaskedProduct {
  MaskedShape shape;
  MaskedLists lists;   // of rows
  const void* weight;  // [J,I]
  void* out;           // [R,I]
};

// out[j,:] = sum over the r that take part of v[r,j] g[r,:], or that added to it.
struct MaskedOuter {
  MaskedShape shape;
  MaskedLists lists;  // of units
  const void* grad;   // [R,I]
  bool add;
  void* out;  // [J,I]
};

// out[r,j] = <W[j,:], g[r,:]> where (r, j) takes part; nothing is written elsewhere.
struct MaskedDots {
  MaskedShape shape;
  MaskedLists lists;   // of units
  const void* weight;  // [J,I]
  const void* grad;    // [R,I]
  void* sums;          // as the lists' entries, workspace
  void* out;           // [R,J]
};

// Units of work: blocks of columns (product), tiles of units (outer, dots). Neither the number of
// threads nor where their parts begin changes a result.
struct MaskedKernels {
  int64_t tile;         // rows, or units, whose columns of one block fill most of the first cache
  int64_t block_bytes;  // of a row in a block of columns
  void (*product)(const MaskedProduct&, ScalarKind, int64_t begin, int64_t end, void* scratch);
  void (*outer)(const MaskedOuter&, ScalarKind, int64_t begin, int64_t end, void* scratch);
  void (*dots)(const MaskedDots&, ScalarKind, int64_t begin, int64_t end, void* scratch);
};

// What lies in the first-level cache while it is multiplied, and in the second what is still
// needed.
inline constexpr int64_t kMaskedTileBytes = 32 * 1024;
inline constexpr int64_t kMaskedGroupBytes = 256 * 1024;
inline constexpr int64_t kMaskedScratchBytes = 2 * kMaskedTileBytes + kMaskedGroupBytes;

// Rows that one call takes, so that one block of columns of all of them is within the latter.
inline constexpr int64_t kMaskedRows = 256;

const MaskedKernels& masked_kernels();

#if defined(__x86_64__)
namespace avx512 {
extern const MaskedKernels kMaskedKernels;
}
namespace avx2 {
extern const MaskedKernels kMaskedKernels;
}
#endif
namespace baseline {
extern const MaskedKernels kMaskedKernels;
}

}  // namespace fastcam
