// Vectors of the widest kind the instruction set at hand has, through the compiler's own vector
// types: one source for SSE2, AVX2, AVX-512 and NEON. Included once per instruction set
// (cpu/isa/ says FASTCAM_ISA and FASTCAM_VECTOR_BYTES), so all of it is in that namespace and
// forced inline.
//
// Storage types (float, double, Half, BFloat16) are converted to the arithmetic type on load and
// rounded to nearest even on store.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "common/scalar.h"
#include "common/storage.h"

// GCC notes that passing wide vectors depends on the instruction set; here all of it is inlined.
#pragma GCC diagnostic ignored "-Wpsabi"
#define FASTCAM_INLINE inline __attribute__((always_inline))
#define FASTCAM_INLINE_LAMBDA __attribute__((always_inline))  // after a lambda's parameters

namespace fastcam::FASTCAM_ISA {

template <class Acc>
inline constexpr int kLanes = FASTCAM_VECTOR_BYTES / int(sizeof(Acc));

// Values of a row that is whole vectors.
template <class Acc>
FASTCAM_INLINE int64_t padded(int64_t count) {
  return round_up(count, kLanes<Acc>);
}

template <class Acc>
struct VecType {
  typedef Acc type __attribute__((vector_size(FASTCAM_VECTOR_BYTES)));
  typedef Acc unaligned
      __attribute__((vector_size(FASTCAM_VECTOR_BYTES), aligned(alignof(Acc)), may_alias));
};
template <class Acc>
using Vec = typename VecType<Acc>::type;

using IntVec = VecType<int32_t>::type;
typedef uint16_t HalfBits __attribute__((vector_size(FASTCAM_VECTOR_BYTES / 2)));
typedef uint16_t HalfBitsUnaligned
    __attribute__((vector_size(FASTCAM_VECTOR_BYTES / 2), aligned(2), may_alias));

template <class Acc>
FASTCAM_INLINE Vec<Acc> splat(Acc x) {
  return Vec<Acc>{} + x;
}

// The lanes of a vector as integers of their width, for what is done to bits: signs, masks.
template <class Acc>
using IntOf = std::conditional_t<sizeof(Acc) == 8, int64_t, int32_t>;
template <class Acc>
using LaneInts = typename VecType<IntOf<Acc>>::type;
// 0, 1, 2, ...
template <class Acc>
FASTCAM_INLINE LaneInts<Acc> lane_numbers() {
  LaneInts<Acc> lane;
  for (int i = 0; i < kLanes<Acc>; ++i) lane[i] = i;
  return lane;
}

// Halves are added to halves: log2(lanes) steps, not one after another.
template <class Acc>
FASTCAM_INLINE Acc horizontal_sum(const Vec<Acc>& v) {
  Vec<Acc> sum = v;
  for (int width = kLanes<Acc> / 2; width > 0; width /= 2) {
    sum += __builtin_shuffle(sum, lane_numbers<Acc>() ^ width);
  }
  return sum[0];
}

// The sums over the lanes of four vectors, added to to[0 .. 3]: as horizontal_sum adds them, in a
// third of the steps.
template <class Acc>
FASTCAM_INLINE void add_four_sums(const Vec<Acc> (&v)[4], Acc* to) {
  constexpr int kAll = kLanes<Acc>;
  if constexpr (kAll < 4) {
    for (int i = 0; i < 4; ++i) to[i] += horizontal_sum<Acc>(v[i]);
  } else {
    // Halves of two vectors side by side, then quarters of four.
    const LaneInts<Acc> lane = lane_numbers<Acc>();
    const LaneInts<Acc> half = lane + (lane & (kAll / 2));  // of v[0]: 0 .., of v[1]: kAll ..
    const auto fold = [&](const Vec<Acc>& a, const Vec<Acc>& b) FASTCAM_INLINE_LAMBDA {
      return Vec<Acc>(__builtin_shuffle(a, b, half) + __builtin_shuffle(a, b, half + kAll / 2));
    };
    const Vec<Acc> ab = fold(v[0], v[1]), cd = fold(v[2], v[3]);
    const LaneInts<Acc> within = lane & (kAll / 4 - 1);
    const LaneInts<Acc> quarter = within + (lane & (kAll / 4)) * 2 + (lane & (kAll / 2)) * 2;
    Vec<Acc> sum =
        __builtin_shuffle(ab, cd, quarter) + __builtin_shuffle(ab, cd, quarter + kAll / 4);
    for (int step = kAll / 8; step > 0; step /= 2) sum += __builtin_shuffle(sum, lane ^ step);
    const Vec<Acc> four = __builtin_shuffle(sum, (lane & 3) * (kAll / 4));
    typedef Acc Four __attribute__((vector_size(4 * sizeof(Acc))));
    Four low, old;
    std::memcpy(&low, &four, sizeof low);
    std::memcpy(&old, to, sizeof old);
    old += low;
    std::memcpy(to, &old, sizeof old);
  }
}

// ---- prefetch -----------------------------------------------------------------------------------

// A processor's own prefetchers stop at the end of a 4 kB page, and a stream waits for the first
// lines of the next one. Prefetched this many bytes ahead, they are in the cache: worth a factor of
// two where the data is in the last-level cache, little where memory itself is the limit. (An
// address beyond a buffer, or in no page at all, is harmless.)
inline constexpr int64_t kPrefetchBytes = 8192;
FASTCAM_INLINE void prefetch_ahead(const void* p) {
  __builtin_prefetch(reinterpret_cast<const void*>(uintptr_t(p) + kPrefetchBytes), 0, 3);
}
FASTCAM_INLINE void prefetch_ahead_to_write(const void* p) {
  __builtin_prefetch(reinterpret_cast<const void*>(uintptr_t(p) + kPrefetchBytes), 1, 3);
}

// One line into the second-level cache; and what lies `ahead` bytes further than the `bytes` from p
// on.
FASTCAM_INLINE void prefetch_line(const void* p) { __builtin_prefetch(p, 0, 2); }
FASTCAM_INLINE void prefetch_further(const void* p, int64_t bytes, int64_t ahead) {
  for (int64_t i = 0; i < bytes; i += 64) {
    prefetch_line(reinterpret_cast<const void*>(uintptr_t(p) + uintptr_t(i + ahead)));
  }
}

// ---- load: storage -> arithmetic ----------------------------------------------------------------

FASTCAM_INLINE Vec<float> load(const float* p) {
  return *reinterpret_cast<const VecType<float>::unaligned*>(p);
}
FASTCAM_INLINE Vec<double> load(const double* p) {
  return *reinterpret_cast<const VecType<double>::unaligned*>(p);
}
FASTCAM_INLINE IntVec load_bits(const uint16_t* p) {
  const HalfBits bits = *reinterpret_cast<const HalfBitsUnaligned*>(p);
  return __builtin_convertvector(bits, IntVec);
}
FASTCAM_INLINE Vec<float> load(const BFloat16* p) {
  return (Vec<float>)(load_bits(&p->bits) << 16);
}
FASTCAM_INLINE Vec<float> load(const Half* p) {
  const IntVec bits = load_bits(&p->bits);
  // Shifted into place a half is 2^112 times too small; inf and NaN then need float's all-ones
  // exponent. A subnormal half is taken from 2^-14 on and never through a subnormal float, which
  // torch.set_flush_denormal makes zero.
  const IntVec magnitude = (bits & 0x7fff) << 13;
  const IntVec normal = magnitude + (112 << 23);
  const IntVec small = (IntVec)((Vec<float>)(magnitude + (113 << 23)) - 0x1p-14f);
  const IntVec scaled = (magnitude < (1 << 23)) ? small : normal;
  const IntVec special = magnitude | 0x7f800000;
  const IntVec sign = (bits & 0x8000) << 16;
  return (Vec<float>)(((magnitude >= (0x1f << 23)) ? special : scaled) | sign);
}

// ---- store: arithmetic -> storage ---------------------------------------------------------------

FASTCAM_INLINE void store(float* p, const Vec<float>& v) {
  *reinterpret_cast<VecType<float>::unaligned*>(p) = v;
}
FASTCAM_INLINE void store(double* p, const Vec<double>& v) {
  *reinterpret_cast<VecType<double>::unaligned*>(p) = v;
}
FASTCAM_INLINE void store_bits(uint16_t* p, const IntVec& bits) {
  *reinterpret_cast<HalfBitsUnaligned*>(p) = __builtin_convertvector(bits, HalfBits);
}
FASTCAM_INLINE void store(BFloat16* p, const Vec<float>& v) {
  const IntVec bits = (IntVec)v;
  const IntVec rounded = bits + 0x7fff + ((bits >> 16) & 1);
  store_bits(&p->bits, ((v != v) ? (bits | 0x400000) : rounded) >> 16);
}
FASTCAM_INLINE void store(Half* p, const Vec<float>& v) {
  const IntVec bits = (IntVec)v;
  const IntVec sign = (bits >> 16) & 0x8000;
  const IntVec magnitude = bits & 0x7fffffff;
  // Below 2^-14 adding 1/2 leaves the rounded subnormal in the low bits.
  const IntVec small = (IntVec)((Vec<float>)magnitude + 0.5f) - 0x3f000000;
  const IntVec odd = (magnitude >> 13) & 1;
  const IntVec normal = (magnitude + (((15 - 127) << 23) + 0xfff) + odd) >> 13;
  const IntVec infinite = IntVec{} + 0x7c00;
  const IntVec nan = IntVec{} + 0x7e00;
  IntVec half = (magnitude < (113 << 23)) ? small : normal;
  half = (magnitude >= (143 << 23)) ? infinite : half;
  half = (magnitude > 0x7f800000) ? nan : half;
  store_bits(&p->bits, half | sign);
}

// ---- rests --------------------------------------------------------------------------------------

// The first `count` (< kLanes) elements; the other lanes are zero.
template <class Acc, class S>
FASTCAM_INLINE Vec<Acc> load_partial(const S* p, int64_t count) {
  S buffer[kLanes<Acc>] = {};
  std::memcpy(static_cast<void*>(buffer), p, size_t(count) * sizeof(S));
  return load(buffer);
}
template <class Acc, class S>
FASTCAM_INLINE void store_partial(S* p, const Vec<Acc>& v, int64_t count) {
  S buffer[kLanes<Acc>];
  store(buffer, v);
  std::memcpy(static_cast<void*>(p), buffer, size_t(count) * sizeof(S));
}

// All lanes are readable, but only the first `count` are ours: the others become zero (a product
// with zero would let a neighbour's NaN through).
template <class Acc>
FASTCAM_INLINE Vec<Acc> keep_first(const Vec<Acc>& v, int64_t count) {
  return (lane_numbers<Acc>() < IntOf<Acc>(count)) ? v : Vec<Acc>{};
}

}  // namespace fastcam::FASTCAM_ISA
