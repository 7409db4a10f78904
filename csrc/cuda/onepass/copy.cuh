// A block's part of a tensor -> shared memory, while the block does something else.
#pragma once

#include "cuda/onepass/cluster.cuh"
#include "cuda/onepass/plan.h"
#include "cuda/onepass/sums.cuh"

namespace fastcam {

#if defined(FASTCAM_HAS_CLUSTERS)

// The copy of a block's part of A or D into shared memory. All threads start it, and wait for it.
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
    const int values = rows * cols;
    if (plan.run) {
      const int head = head_of(values);
      const int body = (values - head) / kVectorOf<S> * kVectorOf<S>;
      if (thread == 0) {
        barrier_arrive_expecting(barrier, uint32_t(body) * uint32_t(sizeof(S)));
        if (body > 0) {
          bulk_copy(first + head, from + head, uint32_t(body) * uint32_t(sizeof(S)), barrier);
        }
      }
      if (thread < values - body) {
        const int i = thread < head ? thread : thread + body;
        first[i] = load(from + i);
      }
    } else if (plan.bulk) {
      const uint32_t bytes = uint32_t(cols) * uint32_t(sizeof(S));
      if (thread == 0) barrier_arrive_expecting(barrier, bytes * uint32_t(rows));
#pragma unroll 1
      for (int r = thread; r < rows && bytes > 0; r += threads) {
        bulk_copy(first + r * plan.pitch, from + r * from_pitch, bytes, barrier);
      }
    } else {
#pragma unroll 4
      for (int i = thread; i < values; i += threads) {
        const int r = i / cols;
        const int c = i - r * cols;
        first[r * plan.pitch + c] = load(from + r * from_pitch + c);
      }
    }
  }

  // `parity` of the barrier's phase. A block barrier where threads have copied values themselves.
  FASTCAM_DEVICE void wait(uint32_t parity) const {
    if (plan.bulk) barrier_wait(barrier, parity);
    const int values = rows * cols;
    if (!plan.bulk || (plan.run && (misalignment() != 0 || values % kVectorOf<S> != 0))) {
      __syncthreads();
    }
  }

private:
  FASTCAM_DEVICE int head_of(int values) const {
    const int misplaced = misalignment() / int(sizeof(S));
    const int head = misplaced == 0 ? 0 : kVectorOf<S> - misplaced;
    return head < values ? head : values;
  }
};

#endif  // FASTCAM_HAS_CLUSTERS

}  // namespace fastcam
