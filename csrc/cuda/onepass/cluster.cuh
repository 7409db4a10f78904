// What Hopper adds to device.cuh: clusters of blocks that see each other's shared memory, and
// copies that go on while the block works (bulk copies that an mbarrier counts, and small ones).
//
// The functions are the device's own instructions under nvcc, for sm_90 and later; the emulator has
// the same ones.
#pragma once

#include "cuda/device.cuh"

namespace fastcam {

// An mbarrier, in shared memory. A phase ends when all expected threads have arrived, and all
// bytes that they announced.
struct alignas(8) CopyBarrier {
  uint64_t state;
};

#if defined(__CUDACC__)
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define FASTCAM_HAS_CLUSTERS 1
#endif

#if defined(FASTCAM_HAS_CLUSTERS)

FASTCAM_DEVICE uint32_t shared_address(const void* p) {
  return uint32_t(__cvta_generic_to_shared(p));
}

// ---- the cluster --------------------------------------------------------------------------------

FASTCAM_DEVICE int cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return int(rank);
}
// A barrier of all threads of the cluster, in two halves: what a thread has written before it
// arrives, every thread sees after its wait.
FASTCAM_DEVICE void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.release;" ::: "memory");
}
FASTCAM_DEVICE void cluster_wait() { asm volatile("barrier.cluster.wait.acquire;" ::: "memory"); }

// Where the block `rank` has what this block has at `p` in its shared memory.
template <class T>
FASTCAM_DEVICE T* in_block(T* p, int rank) {
  uint64_t there;
  asm volatile("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(p), "r"(rank));
  return reinterpret_cast<T*>(there);
}
template <class T>
FASTCAM_DEVICE T load_of_block(const T* p, int rank) {
  return *in_block(p, rank);
}
template <class T>
FASTCAM_DEVICE void store_in_block(T* p, int rank, T value) {
  *in_block(p, rank) = value;
}

// Over the lanes of a warp.
FASTCAM_DEVICE uint32_t warp_max(uint32_t value) { return __reduce_max_sync(0xffffffffu, value); }
FASTCAM_DEVICE uint32_t warp_min(uint32_t value) { return __reduce_min_sync(0xffffffffu, value); }

// ---- copies -------------------------------------------------------------------------------------

FASTCAM_DEVICE void barrier_init(CopyBarrier* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(arrivals)
               : "memory");
}
// By the thread that has made them, before a __syncthreads().
FASTCAM_DEVICE void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
FASTCAM_DEVICE void barrier_arrive_expecting(CopyBarrier* barrier, uint32_t bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
}
// Until the phase of this parity (0, 1, 0, ...) has ended.
FASTCAM_DEVICE void barrier_wait(CopyBarrier* barrier, uint32_t parity) {
  uint32_t ended;
  do {
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                 "selp.u32 %0, 1, 0, p;\n"
                 "}"
                 : "=r"(ended)
                 : "r"(shared_address(barrier)), "r"(parity)
                 : "memory");
  } while (ended == 0);
}

// Global to shared memory, both aligned to 16 and `bytes` a multiple of 16; `barrier` counts them.
FASTCAM_DEVICE void bulk_copy(void* to, const void* from, uint32_t bytes, CopyBarrier* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(barrier))
      : "memory");
}

// Before the barrier after which bulk copies may write where this thread has read or written.
FASTCAM_DEVICE void copies_follow_writes() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// One value or vector of 4, 8 or 16 bytes. The thread itself may read it after copies_wait(),
// others after a barrier as well.
template <class T>
FASTCAM_DEVICE void copy_later(T* to, const T* from) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
  if constexpr (sizeof(T) == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(shared_address(to)), "l"(from),
                 "n"(sizeof(T))
                 : "memory");
  }
}
FASTCAM_DEVICE void copies_wait() { asm volatile("cp.async.wait_all;" ::: "memory"); }

#endif  // FASTCAM_HAS_CLUSTERS
#endif  // __CUDACC__

}  // namespace fastcam
