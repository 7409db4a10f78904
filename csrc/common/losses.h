// The losses of the map, written once for the CPU kernels, the CUDA kernels and the C++ tests.
//
// A loss of the map is a compile-time policy. All of them share the map, its normalisation and the
// whole backward; a policy is made from LossParams and says only
//   kSums             how many sums over the cells it needs,
//   terms(cell, t)    the terms t[kSums] that one cell adds to these sums,
//   combine(sum, d)   the loss, and d[j] = d loss / d sum[j],
//   slope(cell, d)    sum_j d[j] * d t[j] / d x of one cell,
//   defined(sum)      is there a loss at all? (a pair without is invalid, as one without a region)
// To add one: a policy here, a kind in params.h, a case in visit_loss() below.
#pragma once

#include <type_traits>

#include "common/params.h"
#include "common/scalar.h"

namespace fastcam {

// ---- soft thresholds ----------------------------------------------------------------------------
// value(x) and slope(x) = d value / d x for x in [0, 1].

// The tone curve of Kimura & Tanaka, eq. 8, with its centre moved from 1/2 to theta:
// theta (x/theta)^s for x < theta, else 1 - (1-theta) ((1-x)/(1-theta))^s.
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

// ---- losses -------------------------------------------------------------------------------------

// The arguments of a loss at one cell: the normalised map x in [0, 1], the region's share s of the
// cell, the cell weight w, and where the cell is.
template <class T>
struct Cell {
  T x, s, w;
  int row, col;
};

// Yang et al., eq. 2: -ln((I + eps) / (U + eps)), I = sum w m s, U = sum w (m + s - m s), m the
// soft set. Parameters: threshold, sharpness, eps.
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

// The set of Yang et al., {x > theta}: the value is that of the set, the gradient that of the tone
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

// ---- the map ------------------------------------------------------------------------------------

// The peak of a map and the cell that has it; on a tie the first cell in row-major order. Without
// padding, because its words are exchanged between the lanes of a warp (shuffle_xor_of).
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
// limit of 0 is none. (NaN passes unchanged.)
template <class T>
FASTCAM_HD T gradient_cut(T sum_of_slopes, T limit) {
  return limit > T(0) && sum_of_slopes > limit ? limit / sum_of_slopes : T(1);
}

// d loss / d (map before ReLU) of one cell. `slope` is d loss / d x of the cell, `slope_dot_x` the
// sum of slope * x over all cells: every x = r / peak depends on the peak, so that the peak's own
// cell gets -slope_dot_x as well.
template <class T>
FASTCAM_HD T map_gradient(T r, T slope, T slope_dot_x, bool is_peak, T peak) {
  if (r <= T(0)) return T(0);  // ReLU; NaN passes
  return (is_peak ? slope - slope_dot_x : slope) / peak;
}

}  // namespace fastcam
