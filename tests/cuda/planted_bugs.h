// Small kernels, each with one mistake that the emulator has to notice (and each once without it).
#pragma once

#include <string>

#include "emulated_ops.h"

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

inline void run_planted_bug(Device& device, const std::string& bug, float* data) {
  const auto run = [&](void (*kernel)(float*)) {
    FASTCAM_LAUNCH(kernel, 1, kPlantedThreads, kPlantedThreads * sizeof(float), &device, data);
  };
  if (bug == "none: barriers") return run(&reverse_twice<true, true>);
  if (bug == "read after write") return run(&reverse_twice<false, true>);
  if (bug == "write after read") return run(&reverse_twice<true, false>);
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
