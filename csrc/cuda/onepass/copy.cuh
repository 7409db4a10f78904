// A block's part of a tensor -> shared memory, while the block does something else.
#pragma once

#include "cuda/onepass/cluster.cuh"
#include "cuda/onepass/plan.h"
#include "cuda/onepass/sums.cuh"

namespace fastcam {

#if defined(FASTCAM_HAS_CLUSTERS)

// The copy of a block's part of A or D into shared memory. Every thread starts its share and
// arrives at the barrier, which counts the bytes.
template <class S>
struct MatrixCopy {
  PassMatrix plan;
  CopyBarrier* barrier;
  char* to;
  const S* from;  // the block's first value
  int rows, cols;
  int64_t from_pitch;  // from row to row

  // In a run, shared memory has the bytes at the same places within 16 as global memory.
  FASTCAM_DEVICE int misalignment() const {
    return plan.run ? int(reinterpret_cast<uintptr_t>(from) % 16) : 0;
  }
  FASTCAM_DEVICE SharedMatrix<S> held() const {
    return {reinterpret_cast<const S*>(to + misalignment()), rows, cols, plan.pitch};
  }

  FASTCAM_DEVICE void start() const {
    const int thread = int(threadIdx.x);
    const int threads = int(blockDim.x);
    S* first = reinterpret_cast<S*>(to + misalignment());
    if (!plan.bulk) {
#pragma unroll 4
      for (int i = thread; i < rows * cols; i += threads) {
        const int r = i / cols;
        const int c = i - r * cols;
        first[r * plan.pitch + c] = load(from + r * from_pitch + c);
      }
      barrier_arrive(barrier);
    } else if (plan.run) {
      const int values = rows * cols;
      const int misplaced = misalignment() / int(sizeof(S));
      int head = misplaced == 0 ? 0 : kVectorOf<S> - misplaced;
      if (head > values) head = values;
      const int body = (values - head) / kVectorOf<S> * kVectorOf<S>;
      const int tail = values - head - body;
      if (thread < head + tail) {
        const int i = thread < head ? thread : thread + body;
        first[i] = load(from + i);
      }
      copy(first + head, from + head, body, 1);
    } else {
      copy(first, from, cols, rows);
    }
  }
  FASTCAM_DEVICE void wait(uint32_t parity) const { barrier_wait(barrier, parity); }

private:
  // `count` rows of whole vectors, and this thread's arrival.
  FASTCAM_DEVICE void copy(S* target, const S* source, int values, int count) const {
    const int thread = int(threadIdx.x);
    const int threads = int(blockDim.x);
    const uint32_t bytes = uint32_t(values) * uint32_t(sizeof(S));
    const int mine = bytes == 0 || thread >= count ? 0 : (count - thread + threads - 1) / threads;
    if (mine == 0) {
      barrier_arrive(barrier);
      return;
    }
    barrier_arrive_expecting(barrier, bytes * uint32_t(mine));
#pragma unroll 1
    for (int r = thread; r < count; r += threads) {
      bulk_copy(target + r * plan.pitch, source + r * from_pitch, bytes, barrier);
    }
  }
};

#endif  // FASTCAM_HAS_CLUSTERS

}  // namespace fastcam
