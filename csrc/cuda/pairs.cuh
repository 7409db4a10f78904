// What the CUDA kernels make of all pairs of a launch.
#pragma once

#include "common/pairs.h"
#include "cuda/device.cuh"

namespace fastcam {

// Whether the pair (n, t) is switched on.
FASTCAM_DEVICE bool is_on(const CamLoss& op, int64_t n, int64_t t) {
  return op.where.data == nullptr || load(op.where.of<uint8_t>(n, t)) != 0;
}

// Sum or mean over the valid pairs, and how many they are; by one block, in a fixed order. What
// other blocks have written is visible. `scratch`: shared memory for one sum and count per warp.
template <class Acc>
FASTCAM_DEVICE void reduce_pairs(const CamLossForward& op, void* scratch) {
  using Sum = PairSum<Acc>;
  const int64_t pairs = op.loss.in.batch * op.loss.in.targets;
  Sum sum{Acc(0), Acc(0)};
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < pairs; i += blockDim.x) {
    sum.add(load_fresh(static_cast<const Acc*>(op.loss.loss) + i), load_fresh(op.loss.status + i));
  }
  sum = block_reduce(sum, static_cast<Sum*>(scratch),
                     [](const Sum& a, const Sum& b) { return a + b; });
  if (threadIdx.x == 0) {
    store(static_cast<Acc*>(op.reduced), sum.reduced(op.reduction));
    store(static_cast<Acc*>(op.count), sum.count);
  }
}

}  // namespace fastcam
