// What the CUDA kernels are made of: conversions, accesses to memory, shuffles, reductions.
//
// Kernels touch global memory only through the functions below, and the block's shared memory only
// through shared_memory(). Compiled by nvcc these are the device's own instructions; a test may
// include tests/cuda/emulator.h first, which supplies the same functions on a CPU and checks each
// access.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "common/scalar.h"
#include "common/storage.h"
#include "cuda/plan.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#define FASTCAM_DEVICE __device__ __forceinline__
#elif !defined(FASTCAM_EMULATOR)
#error "device.cuh needs nvcc, or the emulator of the tests"
#endif

namespace fastcam {

// `kCount` values that one access moves. Sixteen bytes, or one value.
template <class S, int kCount>
struct alignas(sizeof(S) * kCount) Vec {
  S lane[kCount];
};
template <class S>
inline constexpr int kVectorOf = kVectorBytes / int(sizeof(S));

#if defined(__CUDACC__)

// ---- conversions --------------------------------------------------------------------------------

FASTCAM_DEVICE float to_acc(float x) { return x; }
FASTCAM_DEVICE double to_acc(double x) { return x; }
FASTCAM_DEVICE float to_acc(Half x) { return __half2float(__ushort_as_half(x.bits)); }
FASTCAM_DEVICE float to_acc(BFloat16 x) { return __uint_as_float(uint32_t(x.bits) << 16); }

template <class S>
FASTCAM_DEVICE S from_acc(AccOf<S> x) {
  if constexpr (std::is_same_v<S, Half>) {
    return {__half_as_ushort(__float2half_rn(x))};
  } else if constexpr (std::is_same_v<S, BFloat16>) {
    return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
  } else {
    return x;
  }
}

// ---- arithmetic ---------------------------------------------------------------------------------

// In float approximations, within 2 ulp; log2_near within 2^-22 where the logarithm is near 0.
// Subnormal numbers count as 0.
FASTCAM_DEVICE float exp2_near(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
FASTCAM_DEVICE float log2_near(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
FASTCAM_DEVICE float reciprocal_near(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
FASTCAM_DEVICE double exp2_near(double x) { return ::exp2(x); }
FASTCAM_DEVICE double log2_near(double x) { return ::log2(x); }
FASTCAM_DEVICE double reciprocal_near(double x) { return 1.0 / x; }
FASTCAM_DEVICE float copy_sign(float x, float sign) { return ::copysignf(x, sign); }
FASTCAM_DEVICE double copy_sign(double x, double sign) { return ::copysign(x, sign); }
FASTCAM_DEVICE int sign_bit(float x) { return int(__float_as_uint(x) >> 31); }
FASTCAM_DEVICE int sign_bit(double x) { return int(uint32_t(__double2hiint(x)) >> 31); }

// The same value, of which the compiler knows nothing: it is computed once, here.
template <class T>
FASTCAM_DEVICE T* opaque(T* p) {
  asm volatile("" : "+l"(p));
  return p;
}
FASTCAM_DEVICE int opaque(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

// ---- memory -------------------------------------------------------------------------------------

// The word that one access of kBytes moves.
template <int kBytes>
struct WordOf;
template <>
struct WordOf<1> {
  using type = unsigned char;
};
template <>
struct WordOf<2> {
  using type = unsigned short;
};
template <>
struct WordOf<4> {
  using type = unsigned int;
};
template <>
struct WordOf<8> {
  using type = uint2;
};
template <>
struct WordOf<16> {
  using type = uint4;
};
template <class T>
using Word = typename WordOf<sizeof(T)>::type;

// Global memory that nothing writes during the launch.
template <class T>
FASTCAM_DEVICE T load(const T* p) {
  return __builtin_bit_cast(T, __ldg(reinterpret_cast<const Word<T>*>(p)));
}
// Global memory that other blocks of this launch have written (seen after last_block()).
template <class T>
FASTCAM_DEVICE T load_fresh(const T* p) {
  return __builtin_bit_cast(T, __ldcg(reinterpret_cast<const Word<T>*>(p)));
}
template <class T>
FASTCAM_DEVICE void store(T* p, T value) {
  *reinterpret_cast<Word<T>*>(p) = __builtin_bit_cast(Word<T>, value);
}
// With a condition for each lane.
template <class T>
FASTCAM_DEVICE T load_if(bool here, const T* p, T otherwise) {
  return here ? load(p) : otherwise;
}
template <class T>
FASTCAM_DEVICE void store_if(bool here, T* p, T value) {
  if (here) store(p, value);
}
// Memory of either kind that only this block writes.
template <class T>
FASTCAM_DEVICE T load_own(const T* p) {
  return *p;
}
template <class T>
FASTCAM_DEVICE void store_own(T* p, T value) {
  *p = value;
}

FASTCAM_DEVICE void* shared_memory() {
  extern __shared__ __align__(16) unsigned char fastcam_shared[];
  return fastcam_shared;
}

FASTCAM_DEVICE uint32_t shuffle_xor(uint32_t value, int lane_mask) {
  return __shfl_xor_sync(0xffffffffu, value, lane_mask);
}

// Counts the block in: publishes what it has written, and sees what those counted before have.
FASTCAM_DEVICE unsigned take_ticket(unsigned* counter) {
  __threadfence();
  const unsigned ticket = atomicAdd(counter, 1u);
  __threadfence();
  return ticket;
}

#endif  // __CUDACC__

// kCount values that lie side by side, 16 bytes at a time if they are as many; aligned to what is
// read at a time. `read` takes an address: load() of global memory, or as it is of shared memory.
template <int kCount, class T, class Read>
FASTCAM_DEVICE void read_run(const T* from, T (&to)[kCount], const Read& read) {
  constexpr int kVector = kCount < kVectorOf<T> ? kCount : kVectorOf<T>;
  static_assert(kCount % kVector == 0);
#pragma unroll
  for (int i = 0; i < kCount; i += kVector) {
    const auto v = read(reinterpret_cast<const Vec<T, kVector>*>(from + i));
#pragma unroll
    for (int e = 0; e < kVector; ++e) to[i + e] = v.lane[e];
  }
}
template <int kCount, class T>
FASTCAM_DEVICE void read_run(const T* from, T (&to)[kCount]) {
  read_run(from, to, [](const auto* vector) { return *vector; });
}

// ---- reductions ---------------------------------------------------------------------------------

// Any small struct without padding (whose bits are no values) across the lanes of a warp. Every
// lane takes part.
template <class T>
FASTCAM_DEVICE T shuffle_xor_of(const T& value, int lane_mask) {
  static_assert(sizeof(T) % 4 == 0);
  struct Words {
    uint32_t word[sizeof(T) / 4];
  };
  Words words = __builtin_bit_cast(Words, value);
#pragma unroll
  for (int i = 0; i < int(sizeof(T) / 4); ++i)
    words.word[i] = shuffle_xor(words.word[i], lane_mask);
  return __builtin_bit_cast(T, words);
}

// Over subwarps of `subwarp` neighbouring lanes (a power of two); each lane of a subwarp gets the
// result.
template <class T, class Op>
FASTCAM_DEVICE T subwarp_reduce(T value, int subwarp, const Op& op) {
#pragma unroll 1
  for (int mask = subwarp / 2; mask > 0; mask /= 2) value = op(value, shuffle_xor_of(value, mask));
  return value;
}

// The sums of kCount (a power of two) values over the warp: lane l gets that of value
// l / (32 / kCount). Each step halves what a lane holds, so that few shuffles serve all values.
template <int kCount, class Acc>
FASTCAM_DEVICE Acc warp_sums(Acc (&value)[kCount]) {
  const int lane = int(threadIdx.x) % kWarp;
#pragma unroll
  for (int held = kCount / 2; held > 0; held /= 2) {
    const int mask = held * kWarp / kCount;
    const bool upper = (lane & mask) != 0;
#pragma unroll
    for (int i = 0; i < held; ++i) {
      const Acc low = value[i];  // read both: no address depends on the lane
      const Acc high = value[i + held];
      value[i] = (upper ? high : low) + shuffle_xor_of(upper ? low : high, mask);
    }
  }
#pragma unroll
  for (int mask = kWarp / kCount / 2; mask > 0; mask /= 2) {
    value[0] += shuffle_xor_of(value[0], mask);
  }
  return value[0];
}

// Over the block, in a fixed order; every thread gets the result. `scratch` is shared memory for
// one T per warp, free again on return.
template <class T, class Op>
FASTCAM_DEVICE T block_reduce(T value, T* scratch, const Op& op) {
  const int thread = int(threadIdx.x);
  const int warps = int(blockDim.x) / kWarp;
  value = subwarp_reduce(value, kWarp, op);
  if (thread % kWarp == 0) scratch[thread / kWarp] = value;
  __syncthreads();
  value = scratch[0];
#pragma unroll 1
  for (int warp = 1; warp < warps; ++warp) value = op(value, scratch[warp]);
  __syncthreads();
  return value;
}

// True in every thread of the block that finishes last of the `blocks` that share `counter`, which
// was zero before the launch. What those blocks wrote is then visible to load_fresh(). `flag` is
// shared.
FASTCAM_DEVICE bool last_block(unsigned* counter, unsigned blocks, unsigned* flag) {
  __syncthreads();
  if (threadIdx.x == 0) *flag = take_ticket(counter) == blocks - 1 ? 1u : 0u;
  __syncthreads();
  const bool last = *flag != 0;
  __syncthreads();  // before `flag` is reused
  return last;
}

}  // namespace fastcam
