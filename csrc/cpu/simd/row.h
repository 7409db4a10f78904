// How kernels walk over a row of cells, vector by vector.
#pragma once

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
  // What is written in place: `v`, and what is there in the lanes of the vector before.
  template <class Acc>
  FASTCAM_INLINE Vec<Acc> beside(const Vec<Acc>&, const Vec<Acc>& v) const {
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
  template <class>
  FASTCAM_INLINE Vec<Acc> beside(const Vec<Acc>& there, const Vec<Acc>& v) const {
    return fresh ? v : there;
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
  template <class Acc>
  FASTCAM_INLINE Vec<Acc> beside(const Vec<Acc>&, const Vec<Acc>& v) const {
    return v;
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

}  // namespace fastcam::FASTCAM_ISA
