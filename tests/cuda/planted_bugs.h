// Small kernels, each with one mistake that the emulator has to notice (and each once without it).
#pragma once

#include <string>

#include "emulated_launch.h"
// the launchers after it
#include "cuda/cam/launch.cuh"
#include "cuda/onepass/launch.cuh"

namespace emulator {

inline constexpr int kPlantedThreads = 64;

// Reverses 64 values through shared memory, twice. Two barriers are needed: one before the
// neighbour's value is read (read after write), one before it is written over (write after read).
template <bool kReadAfterWrite, bool kWriteAfterRead>
void reverse_twice(float* data) {
  float* shared = static_cast<float*>(fastcam::shared_memory());
  const int i = int(threadIdx.x);
  for (int pass = 0; pass < 2; ++pass) {
    shared[i] = fastcam::load_fresh(data + i) + 1.0f;
    if (kReadAfterWrite) __syncthreads();
    const float value = shared[kPlantedThreads - 1 - i];
    if (kWriteAfterRead) __syncthreads();
    fastcam::store(data + i, value);
  }
}

template <int kOffset>
void copy_ahead(float* data) {
  const int i = int(threadIdx.x);
  fastcam::store(data + i, fastcam::load_fresh(data + i + kOffset));
}

template <int kOffset>
void load_vector(float* data) {
  const float* at = data + kOffset + int(threadIdx.x) % 8 * 4;
  const auto four = fastcam::load_fresh(reinterpret_cast<const fastcam::Vec<float, 4>*>(at));
  __syncthreads();
  fastcam::store(data + int(threadIdx.x), four.lane[0]);
}

// The neighbour's value through the read-only cache, which may still hold the old one.
template <bool kFresh>
void read_written(float* data) {
  const int i = int(threadIdx.x);
  fastcam::store(data + i, float(i));
  __syncthreads();
  const float* from = data + kPlantedThreads - 1 - i;
  const float value = kFresh ? fastcam::load_fresh(from) : fastcam::load(from);
  __syncthreads();
  fastcam::store(data + i, value);
}

// The neighbour's value in global memory, or after a shuffle, which orders nothing.
template <bool kBarrier>
void read_neighbour(float* data) {
  const int i = int(threadIdx.x);
  fastcam::store(data + i, float(i));
  if (kBarrier) __syncthreads();
  const float value = fastcam::load_fresh(data + (i ^ 1));
  __syncthreads();
  fastcam::store(data + i, value);
}
template <bool kBarrier>
void read_after_shuffle(float* data) {
  float* shared = static_cast<float*>(fastcam::shared_memory());
  const int i = int(threadIdx.x);
  shared[i] = data[i];
  fastcam::shuffle_xor(0, 1);
  if (kBarrier) __syncthreads();
  fastcam::store(data + i, shared[i ^ 1]);
}

// Shared memory is read without helpers: this one is for AddressSanitizer.
template <int kOffset>
void read_shared(float* data) {
  float* shared = static_cast<float*>(fastcam::shared_memory());
  const int i = int(threadIdx.x);
  shared[i] = fastcam::load_fresh(data + i);
  __syncthreads();
  fastcam::store(data + i, shared[i + kOffset]);
}

template <int kThreads>
void partial_barrier(float* data) {
  if (int(threadIdx.x) < kThreads) __syncthreads();
  fastcam::store(data + int(threadIdx.x), 0.0f);
}

// ---- copies and clusters ------------------------------------------------------------------------

enum class CopyBug {
  kNone,
  kNoFence,
  kNoBarrier,
  kNoWait,
  kWrongPhase,
  kTooFewBytes,
  kNoArrival,
  kLeaves,
  kNoCopyFence
};

// Memory of its own, since what a copy reads nothing may write.
inline float* planted_source() {
  alignas(16) static float source[kPlantedThreads / 2];
  for (int i = 0; i < kPlantedThreads / 2; ++i) source[i] = float(i);
  return source;
}

// Values by a bulk copy into shared memory, and from there to the second half of `data`.
template <CopyBug kBug>
void copy_in_bulk(float* data) {
  constexpr int kHalf = kPlantedThreads / 2;
  char* memory = static_cast<char*>(fastcam::shared_memory());
  auto* barrier = reinterpret_cast<fastcam::CopyBarrier*>(memory);
  float* shared = reinterpret_cast<float*>(memory + 16);
  const int i = int(threadIdx.x);
  if (i == 0) {
    fastcam::barrier_init(barrier, kBug == CopyBug::kNoArrival ? 2 : 1);
    if (kBug != CopyBug::kNoFence) fastcam::barrier_init_fence();
  }
  shared[i] = -1.0f;
  if (kBug != CopyBug::kNoCopyFence) fastcam::copies_follow_writes();
  if (kBug != CopyBug::kNoBarrier) __syncthreads();
  if (i == 0) {
    const uint32_t bytes = kHalf * sizeof(float);
    fastcam::barrier_arrive_expecting(barrier, kBug == CopyBug::kTooFewBytes ? bytes - 16 : bytes);
    fastcam::bulk_copy(shared, planted_source(), bytes, barrier);
  }
  if (kBug == CopyBug::kLeaves) return;
  if (kBug != CopyBug::kNoWait) {
    fastcam::barrier_wait(barrier, kBug == CopyBug::kWrongPhase ? 1 : 0);
  }
  if (i >= kHalf) fastcam::store(data + i, shared[i - kHalf]);
  // What has been read too early must not have ended by chance: the copy is waited for at last.
  fastcam::barrier_wait(barrier, 0);
}

template <bool kWaits>
void copy_small(float* data) {
  constexpr int kHalf = kPlantedThreads / 2;
  float* shared = static_cast<float*>(fastcam::shared_memory());
  const int i = int(threadIdx.x);
  if (i < kHalf) fastcam::copy_later(shared + i, planted_source() + i);
  if (kWaits) fastcam::copies_wait();
  __syncthreads();
  if (i >= kHalf) fastcam::store(data + i, shared[i - kHalf]);
  fastcam::copies_wait();
}

enum class ClusterBug { kNone, kNoBarrier, kLeavesEarly, kArrivesTwice, kNobody, kWritesOver };

// Each block of two has half of the values and reads the other's.
template <ClusterBug kBug>
void swap_halves(float* data) {
  constexpr int kHalf = kPlantedThreads / 2;
  float* shared = static_cast<float*>(fastcam::shared_memory());
  const int i = int(threadIdx.x);
  const int rank = fastcam::cluster_rank();
  if (i < kHalf) shared[i] = fastcam::load_fresh(data + rank * kHalf + i);
  if (kBug != ClusterBug::kNoBarrier) {
    fastcam::cluster_arrive();
    if (kBug == ClusterBug::kArrivesTwice) fastcam::cluster_arrive();
    fastcam::cluster_wait();
  }
  const int other = kBug == ClusterBug::kNobody ? rank + 1 : 1 - rank;
  if (i < kHalf) {
    fastcam::store(data + rank * kHalf + i, fastcam::load_of_block(shared + i, other));
  }
  if (kBug == ClusterBug::kWritesOver) {  // the barrier of a block is none of the other's
    __syncthreads();
    shared[i] = -1.0f;
  }
  if (kBug != ClusterBug::kLeavesEarly) {
    fastcam::cluster_arrive();
    fastcam::cluster_wait();
  }
}

inline bool run_planted_copy_bug(Device& device, const std::string& bug, float* data) {
  device.add_buffer(planted_source(), kPlantedThreads / 2 * sizeof(float));
  const auto run = [&](void (*kernel)(float*), int ranks) {
    FASTCAM_LAUNCH_CLUSTER(kernel, ranks, kPlantedThreads, 16 + kPlantedThreads * sizeof(float),
                           ranks, &device, data);
    return true;
  };
  if (bug == "none: bulk copy") return run(&copy_in_bulk<CopyBug::kNone>, 1);
  if (bug == "no fence") return run(&copy_in_bulk<CopyBug::kNoFence>, 1);
  if (bug == "copy before a barrier") return run(&copy_in_bulk<CopyBug::kNoBarrier>, 1);
  if (bug == "copy without a fence") return run(&copy_in_bulk<CopyBug::kNoCopyFence>, 1);
  if (bug == "no wait") return run(&copy_in_bulk<CopyBug::kNoWait>, 1);
  if (bug == "wrong phase") return run(&copy_in_bulk<CopyBug::kWrongPhase>, 1);
  if (bug == "too few bytes") return run(&copy_in_bulk<CopyBug::kTooFewBytes>, 1);
  if (bug == "no arrival") return run(&copy_in_bulk<CopyBug::kNoArrival>, 1);
  if (bug == "leaves its copy") return run(&copy_in_bulk<CopyBug::kLeaves>, 1);
  if (bug == "none: small copy") return run(&copy_small<true>, 1);
  if (bug == "small copy without a wait") return run(&copy_small<false>, 1);
  if (bug == "none: cluster") return run(&swap_halves<ClusterBug::kNone>, 2);
  if (bug == "no cluster barrier") return run(&swap_halves<ClusterBug::kNoBarrier>, 2);
  if (bug == "leaves the cluster") return run(&swap_halves<ClusterBug::kLeavesEarly>, 2);
  if (bug == "writes over what others read") {
    return run(&swap_halves<ClusterBug::kWritesOver>, 2);
  }
  if (bug == "arrives twice") return run(&swap_halves<ClusterBug::kArrivesTwice>, 2);
  if (bug == "reads nobody") return run(&swap_halves<ClusterBug::kNobody>, 2);
  return false;
}

inline void run_planted_bug(Device& device, const std::string& bug, float* data) {
  const auto run = [&](void (*kernel)(float*)) {
    FASTCAM_LAUNCH(kernel, 1, kPlantedThreads, kPlantedThreads * sizeof(float), &device, data);
  };
  if (run_planted_copy_bug(device, bug, data)) return;
  if (bug == "none: barriers") return run(&reverse_twice<true, true>);
  if (bug == "read after write") return run(&reverse_twice<false, true>);
  if (bug == "write after read") return run(&reverse_twice<true, false>);
  if (bug == "none: neighbour") return run(&read_neighbour<true>);
  if (bug == "neighbour without a barrier") return run(&read_neighbour<false>);
  if (bug == "none: after a shuffle") return run(&read_after_shuffle<true>);
  if (bug == "after a shuffle without a barrier") return run(&read_after_shuffle<false>);
  if (bug == "none: index") return run(&copy_ahead<0>);
  if (bug == "index past the end") return run(&copy_ahead<1>);
  if (bug == "index before the start") return run(&copy_ahead<-1>);
  if (bug == "none: vector") return run(&load_vector<0>);
  if (bug == "misaligned vector") return run(&load_vector<1>);
  if (bug == "none: fresh load") return run(&read_written<true>);
  if (bug == "read-only load of what is written") return run(&read_written<false>);
  if (bug == "none: shared index") return run(&read_shared<0>);
  if (bug == "shared index past the end") return run(&read_shared<1>);
  if (bug == "none: whole barrier") return run(&partial_barrier<kPlantedThreads>);
  if (bug == "barrier of half a block") return run(&partial_barrier<kPlantedThreads / 2>);
  throw Error("unknown bug " + bug);
}

}  // namespace emulator
