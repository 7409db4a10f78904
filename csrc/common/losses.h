// The losses of the map, written once for the CPU kernels, the CUDA kernels and the C++ tests.
//
// A loss of the map is a compile-time policy. All of them share the map, its normalisation and the
// whole backward; a policy is made from LossParams and says only
//   kSums             how many sums over the cells it needs,
//   terms(cell, t)    the terms t[kSums] that one cell adds to these sums,
//   combine(sum, d)   the loss, and d[j] = d loss / d sum[j],
//   slope(cell, d)    sum_j d[j] * d t[j] / d x of one cell,
//   defined(sum)      is there a loss at all? (a pair without is invalid, as one without a region)
// A cell is of numbers T, or of vectors of them on the CPU: what is said of a cell is a template
// over that type V, with ?: in place of branches. To add one: a policy (of at most six sums), a
// kind, kLossKinds and a case in visit_loss(), all in this file.
#pragma once

#include <type_traits>

#include "common/pairs.h"
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
  template <class V>
  FASTCAM_HD V base(const V& x) const {
    return power(V(x < theta ? x * inv_theta : (T(1) - x) * inv_rest));
  }
  template <class V>
  FASTCAM_HD V value(const V& x) const {
    const V y = base(x);
    return x < theta ? x * y : T(1) - (T(1) - x) * y;
  }
  template <class V>
  FASTCAM_HD V slope(const V& x) const {
    return sharpness * base(x);
  }
};

template <class T>
struct SigmoidThreshold {
  T theta, sharpness;

  FASTCAM_HD SigmoidThreshold(T theta_, T sharpness_) : theta(theta_), sharpness(sharpness_) {}
  template <class V>
  FASTCAM_HD V value(const V& x) const {
    return T(1) / (T(1) + exp_(V(-sharpness * (x - theta))));
  }
  template <class V>
  FASTCAM_HD V slope(const V& x) const {
    const V q = exp_(V(-abs_(V(sharpness * (x - theta)))));  // stable on both sides
    return sharpness * q / ((T(1) + q) * (T(1) + q));
  }
};

// ---- losses -------------------------------------------------------------------------------------

// The arguments of a loss at one cell: the normalised map x in [0, 1], the region's share s of the
// cell, the cell weight w, and where the cell is.
template <class V>
struct Cell {
  V x, s, w;
  V row, col;
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
  template <class V>
  FASTCAM_HD static void terms_of_set(const V& m, const Cell<V>& cell, V* t) {
    t[0] = cell.w * m * cell.s;
    t[1] = cell.w * (m + cell.s - m * cell.s);
  }
  template <class V>
  FASTCAM_HD void terms(const Cell<V>& cell, V* t) const {
    terms_of_set(threshold.value(cell.x), cell, t);
  }
  FASTCAM_HD T combine(const T* sum, T* d) const {
    const T inter = sum[0] + eps;
    const T uni = sum[1] + eps;
    d[0] = T(-1) / inter;
    d[1] = T(1) / uni;
    return log_(uni) - log_(inter);
  }
  template <class V>
  FASTCAM_HD V slope(const Cell<V>& cell, const T* d) const {
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
  template <class V>
  FASTCAM_HD void terms(const Cell<V>& cell, V* t) const {
    const V above = cell.x > soft.threshold.theta ? V{} + T(1) : V{};
    const V inside = is_nan(cell.x) ? cell.x : above;
    soft.terms_of_set(inside, cell, t);
    soft.terms(cell, t + 2);
  }
  FASTCAM_HD T combine(const T* sum, T* d) const {
    d[0] = d[1] = T(0);
    soft.combine(sum + 2, d + 2);
    T unused[2];
    return soft.combine(sum, unused);
  }
  template <class V>
  FASTCAM_HD V slope(const Cell<V>& cell, const T* d) const {
    return soft.slope(cell, d + 2);
  }
  FASTCAM_HD static bool defined(const T*) { return true; }
};

// num / den, and 0 where there is nothing to divide by. A policy of a ratio has the derivatives
// 1 / den and -(num / den) / den, which ratio_of() gives, too: 0 there.
template <class T>
FASTCAM_HD T ratio_of(T num, T den, T* d) {
  const T inverse = den == T(0) ? T(0) : T(1) / den;
  const T ratio = den == T(0) ? T(0) : num / den;
  d[0] = inverse;
  d[1] = -ratio * inverse;
  return ratio;
}

// How much of the map lies outside the region: 1 - sum w x s / sum w x (Rao et al., the energy
// loss), 1 if the map has no energy; `away`: the share inside, 0 then. Parameters: away.
template <class T>
struct EnergyLoss {
  static constexpr int kSums = 2;
  bool away;

  FASTCAM_HD explicit EnergyLoss(const LossParams& p) : away(p.value[0] != 0) {}
  template <class V>
  FASTCAM_HD void terms(const Cell<V>& cell, V* t) const {
    t[0] = cell.w * cell.x * cell.s;
    t[1] = cell.w * cell.x;
  }
  FASTCAM_HD T combine(const T* sum, T* d) const {
    const T inside = ratio_of(sum[0], sum[1], d);
    if (away) return inside;
    d[0] = -d[0];
    d[1] = -d[1];
    return T(1) - inside;
  }
  template <class V>
  FASTCAM_HD V slope(const Cell<V>& cell, const T* d) const {
    return cell.w * (d[0] * cell.s + d[1]);
  }
  FASTCAM_HD static bool defined(const T*) { return true; }
};

// Squared distance between the centroids of the map and of the region, both weighted by w, rows
// divided by H and columns by W. They are measured from the grid's centre, where the centroid of a
// map without energy is. No parameters.
template <class T>
struct CenterLoss {
  static constexpr int kSums = 6;
  T row_size, col_size;

  FASTCAM_HD explicit CenterLoss(const LossParams& p)
      : row_size(T(1) / T(p.rows)), col_size(T(1) / T(p.cols)) {}
  template <class V>
  FASTCAM_HD V row(const Cell<V>& cell) const {
    return (cell.row + T(0.5)) * row_size - T(0.5);
  }
  template <class V>
  FASTCAM_HD V col(const Cell<V>& cell) const {
    return (cell.col + T(0.5)) * col_size - T(0.5);
  }
  template <class V>
  FASTCAM_HD void terms(const Cell<V>& cell, V* t) const {
    const V of_map = cell.w * cell.x;
    const V of_region = cell.w * cell.s;
    t[0] = of_map;
    t[1] = of_map * row(cell);
    t[2] = of_map * col(cell);
    t[3] = of_region;
    t[4] = of_region * row(cell);
    t[5] = of_region * col(cell);
  }
  FASTCAM_HD T combine(const T* sum, T* d) const {
    T by_row[2], by_col[2];
    const T row = ratio_of(sum[1], sum[0], by_row) - sum[4] / sum[3];
    const T col = ratio_of(sum[2], sum[0], by_col) - sum[5] / sum[3];
    d[0] = T(2) * (row * by_row[1] + col * by_col[1]);
    d[1] = T(2) * row * by_row[0];
    d[2] = T(2) * col * by_col[0];
    d[3] = d[4] = d[5] = T(0);  // the region is constant
    return row * row + col * col;
  }
  template <class V>
  FASTCAM_HD V slope(const Cell<V>& cell, const T* d) const {
    return cell.w * (d[0] + d[1] * row(cell) + d[2] * col(cell));
  }
  FASTCAM_HD static bool defined(const T*) { return true; }
};

// sum w |x - s| / sum w (Rao et al.; GRADIA). No parameters.
template <class T>
struct L1Loss {
  static constexpr int kSums = 2;

  FASTCAM_HD explicit L1Loss(const LossParams&) {}
  template <class V>
  FASTCAM_HD void terms(const Cell<V>& cell, V* t) const {
    t[0] = cell.w * abs_(V(cell.x - cell.s));
    t[1] = cell.w;
  }
  FASTCAM_HD T combine(const T* sum, T* d) const { return ratio_of(sum[0], sum[1], d); }
  template <class V>
  FASTCAM_HD V slope(const Cell<V>& cell, const T* d) const {
    const V one = V{} + T(1);
    const V below = cell.x < cell.s ? -one : V{};
    const V side = cell.x > cell.s ? one : below;
    return cell.w * side * d[0];
  }
  FASTCAM_HD static bool defined(const T*) { return true; }
};

// -sum w s ln(x + eps) / sum w s (Rao et al., the per-pixel cross entropy). Parameters: eps.
template <class T>
struct PPCELoss {
  static constexpr int kSums = 2;
  T eps;

  FASTCAM_HD explicit PPCELoss(const LossParams& p) : eps(T(p.value[0])) {}
  template <class V>
  FASTCAM_HD void terms(const Cell<V>& cell, V* t) const {
    t[1] = cell.w * cell.s;
    t[0] = -t[1] * log_(V(cell.x + eps));
  }
  FASTCAM_HD T combine(const T* sum, T* d) const { return ratio_of(sum[0], sum[1], d); }
  template <class V>
  FASTCAM_HD V slope(const Cell<V>& cell, const T* d) const {
    return -cell.w * cell.s / (cell.x + eps) * d[0];
  }
  FASTCAM_HD static bool defined(const T*) { return true; }
};

// sum w (1 - s) x^2 / sum w (1 - s), what the map holds outside the region (after Ross et al., who
// do it with input gradients); undefined if the region is everything. `away`: s for 1 - s.
// Parameters: away.
template <class T>
struct OutsideLoss {
  static constexpr int kSums = 2;
  bool away;

  FASTCAM_HD explicit OutsideLoss(const LossParams& p) : away(p.value[0] != 0) {}
  template <class V>
  FASTCAM_HD V weight(const Cell<V>& cell) const {
    // What resizing a mask leaves above 1 is no weight.
    return cell.w * (away ? cell.s : relu(V(T(1) - cell.s)));
  }
  template <class V>
  FASTCAM_HD void terms(const Cell<V>& cell, V* t) const {
    t[1] = weight(cell);
    t[0] = t[1] * cell.x * cell.x;
  }
  FASTCAM_HD T combine(const T* sum, T* d) const { return ratio_of(sum[0], sum[1], d); }
  template <class V>
  FASTCAM_HD V slope(const Cell<V>& cell, const T* d) const {
    return T(2) * weight(cell) * cell.x * d[0];
  }
  FASTCAM_HD static bool defined(const T* sum) { return sum[1] != T(0); }
};

enum class LossKind : int32_t {
  kIoUTone = 0,
  kIoUSigmoid = 1,
  kIoUHard = 2,
  kEnergy = 3,
  kCenter = 4,
  kL1 = 5,
  kPPCE = 6,
  kOutside = 7,
};
inline constexpr int kLossKinds = 8;

// Calls f with the loss that a call names, on the CPU and in the kernels.
template <class T, class F>
FASTCAM_HD void visit_loss(LossKind kind, const LossParams& params, const F& f) {
  switch (kind) {
    case LossKind::kIoUTone: f(IoULoss<T, ToneThreshold<T>>(params)); break;
    case LossKind::kIoUSigmoid: f(IoULoss<T, SigmoidThreshold<T>>(params)); break;
    case LossKind::kIoUHard: f(HardIoULoss<T>(params)); break;
    case LossKind::kEnergy: f(EnergyLoss<T>(params)); break;
    case LossKind::kCenter: f(CenterLoss<T>(params)); break;
    case LossKind::kL1: f(L1Loss<T>(params)); break;
    case LossKind::kPPCE: f(PPCELoss<T>(params)); break;
    case LossKind::kOutside: f(OutsideLoss<T>(params)); break;
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

// ---- a pair, from its cells to its loss ---------------------------------------------------------
// Who walks over the cells, and who adds up whose sums, is each kernel's own.

// What a cell adds to the sums of its pair.
template <class V, class Loss>
FASTCAM_HD void add_terms(const Loss& loss, const Cell<V>& cell, V* sum) {
  V term[Loss::kSums];
  loss.terms(cell, term);
  for (int j = 0; j < Loss::kSums; ++j) sum[j] += term[j];
}

// Both 0 if the pair is invalid.
template <class T>
struct PairLoss {
  T value;
  uint8_t status;
};

// The loss of a pair from its sums and the peak of its map, and d loss / d sum; `on`: it is
// switched on, and has a region.
template <class T, class Loss>
FASTCAM_HD PairLoss<T> loss_of_sums(const Loss& loss, bool on, const T* sum, T peak,
                                    T* derivative) {
  PairLoss<T> result{T(0), 0};
  const T value = loss.combine(sum, derivative);
  if (on && loss.defined(sum)) {
    result.value = value;
    result.status = valid_status(peak);
  }
  return result;
}

// What the slopes d loss / d x of a pair's cells add up to: sum of slope * x, which
// map_gradient() takes, and of |slope|, for gradient_cut().
inline constexpr int kSlopeSums = 2;
template <class V>
FASTCAM_HD void add_slope(const V& slope, const V& x, V* sum) {
  sum[0] += slope * x;
  sum[1] += abs_(slope);
}

// d loss / d (map before ReLU) of one cell. `slope` is d loss / d x of the cell, `slope_dot_x` the
// sum of slope * x over all cells: every x = r / peak depends on the peak, so that the peak's own
// cell gets -slope_dot_x as well.
template <class V, class T, class Mask>
FASTCAM_HD V map_gradient(const V& r, const V& slope, T slope_dot_x, const Mask& is_peak, T peak) {
  const V gradient = is_peak ? slope - slope_dot_x : slope;
  return r <= V{} ? V{} : gradient / peak;  // ReLU; NaN passes
}

}  // namespace fastcam
