// How attend walks over rows of cells, for the instruction set FASTCAM_ISA.
#pragma once

#include "cpu/kernels/scratch.h"
#include "cpu/simd/row.h"

namespace fastcam::FASTCAM_ISA {

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
