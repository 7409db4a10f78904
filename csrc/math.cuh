// Scalar math of fastcam, written once for the CPU kernels, the CUDA kernels and the C++ tests.
//
// A loss of the map is a compile-time policy. All of them share the map, its normalisation and the
// whole backward; a policy is made from LossParams and says only
//   kSums             how many sums over the cells it needs,
//   terms(cell, t)    the terms t[kSums] that one cell adds to these sums,
//   combine(sum, d)   the loss, and d[j] = d loss / d sum[j],
//   slope(cell, d)    sum_j d[j] * d t[j] / d x of one cell,
//   defined(sum)      is there a loss at all? (a pair without is invalid, as one without a region)
// To add one: a policy here, a kind in fastcam.h, a case in visit_loss() below.
#pragma once

#include <cmath>
#include <type_traits>

#include "fastcam.h"

#if defined(__CUDACC__)
#define FASTCAM_HD __host__ __device__ __forceinline__
#else
// Forced, because the CPU kernels are compiled once per instruction set: a shared out-of-line copy
// would be the one of whichever instruction set the linker met first.
#define FASTCAM_HD inline __attribute__((always_inline))
#endif

namespace fastcam {

template <class T>
FASTCAM_HD bool is_nan(T x) {
  return x != x;
}

// As torch.relu and torch.max do: NaN wins.
template <class T>
FASTCAM_HD T relu(T x) {
  return x <= T(0) ? T(0) : x;
}
template <class T>
FASTCAM_HD T max_nan(T a, T b) {
  return (a > b || is_nan(a)) ? a : b;
}

template <class T>
FASTCAM_HD T abs_(T x) {
  return x < T(0) ? -x : x;
}

FASTCAM_HD float exp_(float x) { return ::expf(x); }
FASTCAM_HD double exp_(double x) { return ::exp(x); }
FASTCAM_HD float log_(float x) { return ::logf(x); }
FASTCAM_HD double log_(double x) { return ::log(x); }
FASTCAM_HD float log1p_(float x) { return ::log1pf(x); }
FASTCAM_HD double log1p_(double x) { return ::log1p(x); }
FASTCAM_HD float pow_(float x, float y) { return ::powf(x, y); }
FASTCAM_HD double pow_(double x, double y) { return ::pow(x, y); }

// x^y for x >= 0; whole exponents by squaring, which is exact to a few ulp and free of libm.
template <class T>
struct Power {
  T exponent;
  int whole;  // the exponent if it is a whole number in [0, 1023], else -1

  FASTCAM_HD explicit Power(T y) : exponent(y), whole(-1) {
    if (y >= T(0) && y < T(1024) && T(int(y)) == y) whole = int(y);
  }
  FASTCAM_HD T operator()(T x) const {
    if (whole < 0) return pow_(x, exponent);
    T result = T(1);
    T square = x;
    for (int bits = whole; bits != 0; bits >>= 1) {
      if (bits & 1) result *= square;
      square *= square;
    }
    return result;
  }
};

// ---- soft thresholds ---------------------------------------------------------------------------
// value(x) and slope(x) = d value / d x for x in [0, 1].

// K eq. 8 bent to the threshold: x < theta: theta (x/theta)^s, else 1 - (1-theta)
// ((1-x)/(1-theta))^s.
template <class T>
struct ToneThreshold {
  T theta, sharpness, inv_theta, inv_rest;
  Power<T> power;  // of s - 1: value and slope share it

  FASTCAM_HD ToneThreshold(T theta_, T sharpness_)
      : theta(theta_), sharpness(sharpness_), inv_theta(T(1) / theta_),
        inv_rest(T(1) / (T(1) - theta_)), power(sharpness_ - T(1)) {}
  FASTCAM_HD T base(T x) const { return power(x < theta ? x * inv_theta : (T(1) - x) * inv_rest); }
  FASTCAM_HD T value(T x) const {
    const T y = base(x);
    return x < theta ? x * y : T(1) - (T(1) - x) * y;
  }
  FASTCAM_HD T slope(T x) const { return sharpness * base(x); }
};

template <class T>
struct SigmoidThreshold {
  T theta, sharpness;

  FASTCAM_HD SigmoidThreshold(T theta_, T sharpness_) : theta(theta_), sharpness(sharpness_) {}
  FASTCAM_HD T value(T x) const { return T(1) / (T(1) + exp_(-sharpness * (x - theta))); }
  FASTCAM_HD T slope(T x) const {
    const T q = exp_(-abs_(sharpness * (x - theta)));  // stable on both sides
    return sharpness * q / ((T(1) + q) * (T(1) + q));
  }
};

// ---- the tone curve of a mask ------------------------------------------------------------------
// K eq. 7 and 8. (The CPU's vector code, cpu/attend_kernels_impl.h, has the same formulas.)

// g of a mask in [0, 1], and d g / d mask.
template <class T>
struct MaskTone {
  T gain, offset;  // g = gain h - offset
  Power<T> power;

  FASTCAM_HD explicit MaskTone(const ToneCurve& curve)
      : gain(T(1) + T(curve.beta)), offset(T(curve.beta)), power(T(curve.n)) {}
  FASTCAM_HD T operator()(T mask) const {
    const bool low = mask < T(0.5);
    const T part = T(0.5) * power(T(2) * (low ? mask : T(1) - mask));
    return gain * (low ? part : T(1) - part) - offset;
  }
};
template <class T>
struct MaskToneSlope {
  T n, gain;
  Power<T> power;  // of n - 1

  FASTCAM_HD explicit MaskToneSlope(const ToneCurve& curve)
      : n(T(curve.n)), gain(n * (T(1) + T(curve.beta))), power(n - T(1)) {}
  FASTCAM_HD T operator()(T mask) const {
    if (n == T(0)) return mask - mask;  // flat; 0 * x^-1 would be NaN at x = 0
    return gain * power(T(2) * (mask < T(0.5) ? mask : T(1) - mask));
  }
};

// A mask that is given by its logit L: u = 2 sigmoid(-|L|) is exact at any L, where the sigmoid of
// a large L rounds to 1.
template <class T>
struct MaskLogit {
  T logit;
  T u;

  FASTCAM_HD MaskLogit() {}
  FASTCAM_HD explicit MaskLogit(T logit_) : logit(logit_) {
    const T e = exp_(-abs_(logit));
    u = T(2) * e / (T(1) + e);
  }
  FASTCAM_HD T mirrored(T lower) const { return logit >= T(0) ? T(1) - lower : lower; }
  FASTCAM_HD T mask() const { return mirrored(T(0.5) * u); }
  // A small u is subnormal or 0 long before its logarithm is out of range.
  FASTCAM_HD T log_u() const { return T(0.69314718055994531) - abs_(logit) + log1p_(T(-0.5) * u); }
};

// 1 + g(sigmoid(L)) and its derivative: h = u^n / 2 for L < 0, mirrored above, with d h / d L =
// n (u^n / 2) sigmoid(|L|).
template <class T>
struct Attention {
  T n, gain, offset;  // 1 + g = gain h + offset
  Power<T> power;

  FASTCAM_HD explicit Attention(const ToneCurve& curve)
      : n(T(curve.n)), gain(T(1) + T(curve.beta)), offset(T(1) - T(curve.beta)), power(n) {}
  // u^n / 2 of some masks, whose chains of products run side by side.
  template <int kCount>
  FASTCAM_HD void lower(const MaskLogit<T> (&m)[kCount], T (&out)[kCount]) const {
    if (power.whole < 0) {
      for (int i = 0; i < kCount; ++i) out[i] = T(0.5) * exp_(n * m[i].log_u());
      return;
    }
    T square[kCount];
    for (int i = 0; i < kCount; ++i) {
      square[i] = m[i].u;
      out[i] = T(0.5);
    }
    for (int bits = power.whole; bits != 0; bits >>= 1) {
      for (int i = 0; i < kCount; ++i) {
        if (bits & 1) out[i] *= square[i];
        square[i] *= square[i];
      }
    }
  }
  FASTCAM_HD T factor(const MaskLogit<T>& m, T lower) const {
    return offset + gain * m.mirrored(lower);
  }
  // d loss / d L, from d loss / d factor and d loss / d mask.
  FASTCAM_HD T logit_gradient(const MaskLogit<T>& m, T lower, T of_factor, T of_mask) const {
    const T q = T(0.5) * m.u;
    return (of_factor * (gain * n) * lower + of_mask * q) * (T(1) - q);
  }
};

// ---- losses ------------------------------------------------------------------------------------

// What a loss sees of a cell: the normalised map x in [0, 1], the region's share s of the cell, the
// cell weight w, and where the cell is.
template <class T>
struct Cell {
  T x, s, w;
  int row, col;
};

// Y eq. 2: -ln((I + eps) / (U + eps)), I = sum w m s, U = sum w (m + s - m s), m the soft set.
// Parameters: threshold, sharpness, eps.
template <class T, class Threshold>
struct IoULoss {
  static constexpr int kSums = 2;
  Threshold threshold;
  T eps;

  FASTCAM_HD explicit IoULoss(const LossParams& p)
      : threshold(T(p.value[0]), T(p.value[1])), eps(T(p.value[2])) {}
  FASTCAM_HD static void terms_of_set(T m, const Cell<T>& cell, T* t) {
    t[0] = cell.w * m * cell.s;
    t[1] = cell.w * (m + cell.s - m * cell.s);
  }
  FASTCAM_HD void terms(const Cell<T>& cell, T* t) const {
    terms_of_set(threshold.value(cell.x), cell, t);
  }
  FASTCAM_HD T combine(const T* sum, T* d) const {
    const T inter = sum[0] + eps;
    const T uni = sum[1] + eps;
    d[0] = T(-1) / inter;
    d[1] = T(1) / uni;
    return log_(uni) - log_(inter);
  }
  FASTCAM_HD T slope(const Cell<T>& cell, const T* d) const {
    return threshold.slope(cell.x) * cell.w * (d[0] * cell.s + d[1] * (T(1) - cell.s));
  }
  FASTCAM_HD static bool defined(const T*) { return true; }
};

// The set as Y has it, {x > theta}: the value is that of the set, the gradient that of the tone
// curve.
template <class T>
struct HardIoULoss {
  static constexpr int kSums = 4;
  IoULoss<T, ToneThreshold<T>> soft;

  FASTCAM_HD explicit HardIoULoss(const LossParams& p) : soft(p) {}
  FASTCAM_HD void terms(const Cell<T>& cell, T* t) const {
    const T inside = is_nan(cell.x) ? cell.x : T(cell.x > soft.threshold.theta ? 1 : 0);
    soft.terms_of_set(inside, cell, t);
    soft.terms(cell, t + 2);
  }
  FASTCAM_HD T combine(const T* sum, T* d) const {
    d[0] = d[1] = T(0);
    soft.combine(sum + 2, d + 2);
    T unused[2];
    return soft.combine(sum, unused);
  }
  FASTCAM_HD T slope(const Cell<T>& cell, const T* d) const { return soft.slope(cell, d + 2); }
  FASTCAM_HD static bool defined(const T*) { return true; }
};

// Calls f with the loss that a call names, on the CPU and in the kernels.
template <class T, class F>
FASTCAM_HD void visit_loss(LossKind kind, const LossParams& params, const F& f) {
  switch (kind) {
    case LossKind::kIoUTone: f(IoULoss<T, ToneThreshold<T>>(params)); break;
    case LossKind::kIoUSigmoid: f(IoULoss<T, SigmoidThreshold<T>>(params)); break;
    case LossKind::kIoUHard: f(HardIoULoss<T>(params)); break;
  }
}

// ---- the map -----------------------------------------------------------------------------------

// The peak of a map and the cell that has it; on a tie the first cell in row-major order. Without
// padding, because its words travel between the lanes of a warp (shuffle_xor_of).
template <class T>
struct Peak {
  using Cell = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;
  T value;
  Cell cell;
};
template <class T>
FASTCAM_HD Peak<T> higher_peak(Peak<T> a, Peak<T> b) {
  const bool a_nan = is_nan(a.value);
  const bool b_nan = is_nan(b.value);
  if (a_nan || b_nan) return (a_nan && (!b_nan || a.cell < b.cell)) ? a : b;
  if (a.value == b.value) return a.cell < b.cell ? a : b;
  return a.value > b.value ? a : b;
}

// What a map is divided by. A division, never a product with 1/peak: a subnormal peak has no
// inverse.
template <class T>
FASTCAM_HD T map_divisor(T peak) {
  return peak == T(0) ? T(1) : peak;
}

// What a pair's gradient is multiplied by so that its sum of |d loss / d x| is at most `limit`; a
// limit of 0 is none. (NaN passes unchanged, to be seen.)
template <class T>
FASTCAM_HD T pull_cut(T sum_of_slopes, T limit) {
  return limit > T(0) && sum_of_slopes > limit ? limit / sum_of_slopes : T(1);
}

// d loss / d (map before ReLU) of one cell. `slope` is d loss / d x of the cell, `pull` the sum of
// slope * x over all cells: what the peak takes back because every x is divided by it.
template <class T>
FASTCAM_HD T map_gradient(T r, T slope, T pull, bool is_peak, T peak) {
  if (r <= T(0)) return T(0);  // ReLU; NaN passes
  return (is_peak ? slope - pull : slope) / peak;
}

}  // namespace fastcam
