// The lists of masked_kernels.h from a dense pattern. What takes part is for `passed` alone to say:
// a value may be zero and its gradient not.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>

#include "masked_kernels.h"

namespace fastcam {

// Rows and units, cut into cells of tile x tile.
struct MaskedCells {
  int64_t rows, units, tile;
  int64_t row_tiles() const { return (rows + tile - 1) / tile; }
  int64_t unit_tiles() const { return (units + tile - 1) / tile; }
  // Lists of a cell, and entries that one can have.
  int64_t lines(bool by_row) const { return std::min(tile, by_row ? rows : units); }
  int64_t capacity(bool by_row) const {
    return (lines(!by_row) + kMaskedPad - 1) / kMaskedPad * kMaskedPad;
  }
  int64_t cells() const { return row_tiles() * unit_tiles(); }
  int64_t all_lines(bool by_row) const { return cells() * lines(by_row); }
  int64_t all_entries(bool by_row) const { return all_lines(by_row) * capacity(by_row); }
};

// Which of 64 bytes are not 0, as bits, the first lowest; fewer than 64 are filled up with zeros.
// (torch writes a bool as 0 or 1, but a tensor that views other memory may hold any byte.)
inline uint64_t masked_bits(const uint8_t* passed, int64_t count) {
  uint8_t bytes[64] = {};
  std::memcpy(bytes, passed, size_t(count < 64 ? count : 64));
  uint64_t bits = 0;
  for (int i = 0; i < 8; ++i) {
    uint64_t eight;
    std::memcpy(&eight, bytes + 8 * i, 8);
    constexpr uint64_t kLow = 0x7f7f7f7f7f7f7f7fu;  // a byte's other bits carry into its highest
    eight = ((((eight & kLow) + kLow) | eight) & ~kLow) >> 7;
    bits |= ((eight * 0x0102040810204080u) >> 56) << (8 * i);
  }
  return bits;
}

// Lists of the cells of the unit tiles [begin, end). passed and v: [R,J]; v may be null.
template <bool kByRow, class Acc>
void masked_lists(const Acc* v, const uint8_t* passed, const MaskedCells& cells, int32_t* lines,
                  int32_t* counts, int32_t* indices, Acc* values, int64_t begin, int64_t end) {
  constexpr int64_t kMost = 256;  // the largest tile
  const int64_t line_count = cells.lines(kByRow), capacity = cells.capacity(kByRow);
  for (int64_t cell = begin * cells.row_tiles(); cell < end * cells.row_tiles(); ++cell) {
    const int64_t j0 = cell / cells.row_tiles() * cells.tile;
    const int64_t r0 = cell % cells.row_tiles() * cells.tile;
    const int64_t units = std::min(cells.tile, cells.units - j0);
    const int64_t rows = std::min(cells.tile, cells.rows - r0);
    const uint8_t* pattern = passed + r0 * cells.units + j0;

    uint16_t found[kMost] = {};  // by line
    for (int64_t r = 0; r < rows; ++r) {
      const uint8_t* row = pattern + r * cells.units;
      if constexpr (kByRow) {
        uint16_t sum = 0;
        for (int64_t j = 0; j < units; ++j) sum = uint16_t(sum + (row[j] != 0));
        found[r] = sum;
      } else {
        for (int64_t j = 0; j < units; ++j) found[j] = uint16_t(found[j] + (row[j] != 0));
      }
    }

    // Lines by their padded count, so that a processor can foresee where loops over them end.
    const int64_t here = kByRow ? rows : units;
    int32_t at[kMost / kMaskedPad + 2] = {};
    const auto padded = [&](int64_t line) { return (found[line] + kMaskedPad - 1) / kMaskedPad; };
    for (int64_t line = 0; line < here; ++line) ++at[padded(line) + 1];
    for (int64_t n = 1; n < kMost / kMaskedPad + 2; ++n) at[n] += at[n - 1];
    int32_t* line_at = lines + cell * line_count;
    for (int64_t line = 0; line < here; ++line) line_at[at[padded(line)]++] = int32_t(line);
    for (int64_t n = here; n < line_count; ++n) line_at[n] = -1;

    int64_t next[kMost];  // where a line's next entry goes
    int64_t start = cell * line_count * capacity;
    for (int64_t n = 0; n < here; ++n) {
      const int64_t line = line_at[n], count = padded(line) * kMaskedPad;
      counts[cell * line_count + n] = int32_t(count);
      next[line] = start;
      for (int64_t k = found[line]; k < count; ++k) {
        indices[start + k] = int32_t(cells.tile);  // a row of zeros
        if (v != nullptr) values[start + k] = 0;
      }
      start += count;
    }

    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t j = 0; j < units; j += 64) {
        const uint8_t* row = pattern + r * cells.units + j;
        for (uint64_t bits = masked_bits(row, units - j); bits != 0; bits &= bits - 1) {
          const int64_t unit = j + std::countr_zero(bits);
          const int64_t k = next[kByRow ? r : unit]++;
          indices[k] = int32_t(kByRow ? unit : r);
          if (v != nullptr) values[k] = v[(r0 + r) * cells.units + j0 + unit];
        }
      }
    }
  }
}

}  // namespace fastcam
