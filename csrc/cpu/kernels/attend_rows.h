// How attend walks over rows of cells, for the instruction set FASTCAM_ISA.
#pragma once

#include "cpu/kernels/scratch.h"
#include "cpu/simd/vec.h"

namespace fastcam::FASTCAM_ISA {

// How a vector lies in its row. A row ends in a vector that reaches back into the one before
// (Last), so that it is read and written whole; what both hold is the same, and is counted once in
// sums. Only rows shorter than a vector (Short) go through a buffer.
struct Whole {
  template <class Acc, class S>
  FASTCAM_INLINE Vec<Acc> read(const S* from) const {
    return load(from);
  }
  template <class Acc, class S>
  FASTCAM_INLINE void write(S* to, const Vec<Acc>& v) const {
    store(to, v);
  }
  template <class Acc>
  FASTCAM_INLINE Vec<Acc> once(const Vec<Acc>& v) const {
    return v;
  }
};
template <class Acc>
struct Last : Whole {
  LaneInts<Acc> fresh;  // all ones in the lanes that no vector before holds
  template <class>
  FASTCAM_INLINE Vec<Acc> once(const Vec<Acc>& v) const {
    return (Vec<Acc>)((LaneInts<Acc>)v & fresh);  // whatever the others are, NaN included
  }
};
struct Short {
  int64_t count;
  template <class Acc, class S>
  FASTCAM_INLINE Vec<Acc> read(const S* from) const {
    return load_partial<Acc>(from, count);
  }
  template <class Acc, class S>
  FASTCAM_INLINE void write(S* to, const Vec<Acc>& v) const {
    store_partial<Acc>(to, v, count);
  }
  template <class Acc>
  FASTCAM_INLINE Vec<Acc> once(const Vec<Acc>& v) const {
    return keep_first<Acc>(v, count);
  }
};

template <class Acc>
class Row {
public:
  explicit Row(int64_t cells) : cells_(cells), rest_(cells % kLanes<Acc>) {
    last_.fresh = lane_numbers<Acc>() >= (LaneInts<Acc>{} + IntOf<Acc>(kLanes<Acc> - rest_));
  }

  int64_t count() const { return cells_; }
  int64_t padded() const { return FASTCAM_ISA::padded<Acc>(cells_); }

  // Calls body(position, slot, how it lies) for each vector. `slot` is where a row of scratch
  // memory holds it: vectors do not overlap there.
  template <class Body>
  FASTCAM_INLINE void each(const Body& body) const {
    constexpr int64_t L = kLanes<Acc>;
    int64_t p = 0;
    for (; p + L <= cells_; p += L) body(p, p, Whole{});
    if (rest_ == 0) return;
    if (p > 0) {
      body(cells_ - L, p, last_);
    } else {
      body(0, 0, Short{rest_});
    }
  }

private:
  int64_t cells_;
  int64_t rest_;
  Last<Acc> last_;
};

// kPrefetchBytes in values.
template <class S>
inline constexpr int64_t kAhead = kPrefetchBytes / int64_t(sizeof(S));

// ---- attend, forward ----------------------------------------------------------------------------

// The rows (n, k, c) from `begin` on, one after the other; row / (K C) without a division for each.
template <class Acc, class S>
class Rows {
public:
  Rows(const AttendForward& op, int64_t begin) : op_(op), row_(begin) {
    channel_ = begin % op.shape.channels;
    attribute_ = begin / op.shape.channels % op.shape.attributes;
    image_ = begin / op.shape.channels / op.shape.attributes;
  }
  FASTCAM_INLINE void next() {
    ++row_;
    if (++channel_ < op_.shape.channels) return;
    channel_ = 0;
    if (++attribute_ < op_.shape.attributes) return;
    attribute_ = 0;
    ++image_;
  }
  FASTCAM_INLINE int64_t index() const { return row_; }
  FASTCAM_INLINE const S* logits() const {
    const RowStrides& s = op_.strides;
    return static_cast<const S*>(op_.logits) + image_ * s.n + attribute_ * s.k + channel_ * s.c;
  }
  FASTCAM_INLINE const S* features() const {
    const int64_t row = image_ * op_.shape.channels + channel_;
    return static_cast<const S*>(op_.features) + row * op_.shape.cells;
  }
  // Of curve j: a row, or its mean.
  FASTCAM_INLINE S* out(int64_t j) const {
    const AttendShape& s = op_.shape;
    const int64_t rows = s.batch * s.attributes * s.channels;
    return static_cast<S*>(op_.out) + (j * rows + row_) * (op_.pool ? 1 : s.cells);
  }
  FASTCAM_INLINE Acc* mask_sum() const { return static_cast<Acc*>(op_.mask_sum) + row_; }

private:
  const AttendForward& op_;
  int64_t row_, channel_, attribute_, image_;
};

template <class Acc, class S>
FASTCAM_INLINE void store_one(S* to, Acc value) {
  store_partial<Acc>(to, splat(value), 1);
}

}  // namespace fastcam::FASTCAM_ISA
