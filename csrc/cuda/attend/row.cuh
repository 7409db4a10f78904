// The row of a warp in attend's kernels: one channel of a sample, up to 32 kRounds cells of it at a
// time, lane by lane. Lanes begin at a multiple of 32 bytes of F, so that accesses are of whole
// sectors; where L's rows lie differently, they are right all the same.
#pragma once

#include "cuda/attend/plan.h"
#include "cuda/device.cuh"

namespace fastcam {

template <int kRounds>
struct RowOfWarp {
  int cell;  // the lane's in round 0
  int here;  // bit i: round i has a cell for the lane

  template <class S>
  FASTCAM_DEVICE RowOfWarp(const S* features, int count) : here(0) {
    const auto at = reinterpret_cast<uintptr_t>(features) / sizeof(S);
    cell = int(threadIdx.x) % kWarp - int(at % (kSectorBytes / sizeof(S)));
#pragma unroll
    for (int i = 0; i < kRounds; ++i) {
      here |= int(unsigned(cell + i * kWarp) < unsigned(count)) << i;
    }
  }
  FASTCAM_DEVICE bool has(int i) const { return (here >> i & 1) != 0; }
  template <class S>
  FASTCAM_DEVICE void read(const S* from, S otherwise, S (&value)[kRounds]) const {
    from = opaque(from + cell);  // one address for all rounds
#pragma unroll
    for (int i = 0; i < kRounds; ++i) value[i] = load_if(has(i), from + i * kWarp, otherwise);
  }
};

}  // namespace fastcam
