// float16 and bfloat16 to float and back, rounded to nearest even as the device does. For the
// emulator.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "common/storage.h"

namespace fastcam {

inline float to_acc(float x) { return x; }
inline double to_acc(double x) { return x; }
inline float to_acc(BFloat16 x) { return std::bit_cast<float>(uint32_t(x.bits) << 16); }
inline float to_acc(Half x) {
  const uint32_t sign = uint32_t(x.bits & 0x8000u) << 16;
  const uint32_t rest = x.bits & 0x7fffu;
  if (rest >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
  if (rest < 0x400u) {
    const float subnormal = std::ldexp(float(rest), -24);
    return sign != 0 ? -subnormal : subnormal;
  }
  return std::bit_cast<float>(sign | ((rest << 13) + (112u << 23)));
}

namespace detail {

inline uint16_t bfloat16_bits(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if (x != x) return uint16_t(bits >> 16 | 0x40u);
  return uint16_t((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

inline uint16_t half_bits(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint16_t sign = uint16_t(bits >> 16 & 0x8000u);
  const float size = std::fabs(x);
  if (x != x) return uint16_t(sign | 0x7e00u);
  if (size >= 65520.0f) return uint16_t(sign | 0x7c00u);
  if (size < std::ldexp(1.0f, -14)) {  // subnormal: whole multiples of 2^-24
    return uint16_t(sign | uint16_t(std::nearbyint(std::ldexp(size, 24))));
  }
  const uint32_t positive = bits & 0x7fffffffu;
  return uint16_t(sign | ((positive - (112u << 23) + 0xfffu + (positive >> 13 & 1u)) >> 13));
}

}  // namespace detail

template <class S>
S from_acc(AccOf<S> x) {
  if constexpr (std::is_same_v<S, Half>) {
    return {detail::half_bits(x)};
  } else if constexpr (std::is_same_v<S, BFloat16>) {
    return {detail::bfloat16_bits(x)};
  } else {
    return x;
  }
}

}  // namespace fastcam
