// losses.h and tone_curve.h: the soft thresholds, the loss policies and their derivatives.
#include "common/losses.h"
#include "common/tone_curve.h"

#include <limits>
#include <vector>

#include "check.h"

using namespace fastcam;

namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

template <class F>
double central_difference(F f, double x, double h = 1e-6) {
  return (f(x + h) - f(x - h)) / (2 * h);
}

// Tone curve as the paper writes it.
double tone(double x, double theta, double s) {
  return x < theta ? theta * std::pow(x / theta, s)
                   : 1 - (1 - theta) * std::pow((1 - x) / (1 - theta), s);
}

TEST(whole_and_fractional_powers) {
  for (double exponent : {0.0, 0.5, 1.0, 2.0, 7.0, 7.5, 31.0, 1023.0}) {
    const Power<double> power(exponent);
    CHECK((power.whole >= 0) == (exponent == std::floor(exponent)));
    for (double x : {0.0, 1e-3, 0.3, 0.999, 1.0}) {
      CHECK_NEAR(power(x), std::pow(x, exponent), 1e-12, 0);
    }
  }
}

TEST(tone_threshold_value_and_slope) {
  for (double theta : {0.2, 0.5, 0.9}) {
    for (double s : {1.0, 1.5, 2.0, 8.0, 20.0}) {
      const ToneThreshold<double> threshold(theta, s);
      CHECK_NEAR(threshold.value(0.0), 0.0, 0, 0);
      CHECK_NEAR(threshold.value(1.0), 1.0, 0, 0);
      CHECK_NEAR(threshold.value(theta), theta, 1e-14, 0);
      for (double x = 0.01; x < 1; x += 0.017) {
        CHECK_NEAR(threshold.value(x), tone(x, theta, s), 1e-12, 1e-15);
        const auto value = [&](double y) { return threshold.value(y); };
        CHECK_NEAR(threshold.slope(x), central_difference(value, x), 1e-5, 1e-7);
      }
    }
  }
  // Sharpness 1 is the identity.
  const ToneThreshold<float> identity(0.5f, 1.0f);
  for (float x : {0.0f, 0.25f, 0.5f, 0.75f, 1.0f}) CHECK_NEAR(identity.value(x), x, 0, 0);
}

TEST(sigmoid_threshold_value_and_slope) {
  for (double s : {1.0, 8.0, 50.0, 2000.0}) {
    const SigmoidThreshold<double> threshold(0.5, s);
    for (double x = 0; x <= 1; x += 0.05) {
      CHECK_NEAR(threshold.value(x), 1 / (1 + std::exp(-s * (x - 0.5))), 1e-14, 0);
      CHECK(std::isfinite(threshold.slope(x)));
      if (s > 100) continue;  // too steep for a difference quotient
      const auto value = [&](double y) { return threshold.value(y); };
      CHECK_NEAR(threshold.slope(x), central_difference(value, x), 1e-5, 1e-7);
    }
  }
}

TEST(thresholds_let_nan_through) {
  CHECK(std::isnan(ToneThreshold<double>(0.5, 8).value(kNan)));
  CHECK(std::isnan(SigmoidThreshold<double>(0.5, 8).value(kNan)));
}

template <class Loss>
double loss_of(const Loss& loss, const std::vector<double>& x, const std::vector<double>& s,
               const std::vector<double>& w, double* derivative) {
  double sum[Loss::kSums] = {};
  for (size_t p = 0; p < x.size(); ++p) {
    add_terms(loss, Cell<double>{x[p], s[p], w[p], double(p / 4), double(p % 4)}, sum);
  }
  return loss.combine(sum, derivative);
}

struct Cells {
  std::vector<double> x, s, w;
  explicit Cells(unsigned seed, size_t count = 12) {
    check::Random random(seed);
    for (size_t p = 0; p < count; ++p) {
      x.push_back(random.uniform(0.02, 0.98));
      s.push_back(random.uniform() < 0.3 ? 0.0 : random.uniform());
      w.push_back(random.uniform(0.5, 3));
    }
  }
  Cell<double> at(size_t p) const { return {x[p], s[p], w[p], double(p / 4), double(p % 4)}; }
};

LossParams iou_params(double threshold, double sharpness, double eps) {
  return {{threshold, sharpness, eps}, 3, 4};
}
LossParams one_param(double value) { return {{value}, 3, 4}; }

template <class Loss>
void check_slopes(const Loss& loss) {
  for (unsigned seed = 1; seed < 6; ++seed) {
    Cells cells(seed);
    double derivative[Loss::kSums];
    loss_of(loss, cells.x, cells.s, cells.w, derivative);
    for (size_t p = 0; p < cells.x.size(); ++p) {
      const auto at = [&](double x) {
        std::vector<double> moved = cells.x;
        moved[p] = x;
        double unused[Loss::kSums];
        return loss_of(loss, moved, cells.s, cells.w, unused);
      };
      CHECK_NEAR(loss.slope(cells.at(p), derivative), central_difference(at, cells.x[p]), 1e-5,
                 1e-7);
    }
  }
}

TEST(iou_loss_value) {
  const double eps = 1e-6;
  const IoULoss<double, ToneThreshold<double>> loss(iou_params(0.5, 8, eps));
  const Cells cells(7);
  double inter = eps, uni = eps, derivative[2];
  for (size_t p = 0; p < cells.x.size(); ++p) {
    const double m = tone(cells.x[p], 0.5, 8), s = cells.s[p], w = cells.w[p];
    inter += w * m * s;
    uni += w * (m + s - m * s);
  }
  CHECK_NEAR(loss_of(loss, cells.x, cells.s, cells.w, derivative), -std::log(inter / uni), 1e-12,
             0);
  // A dead map, and a map that is its region.
  const std::vector<double> one(4, 1.0), none(4, 0.0), half{1, 1, 0, 0};
  CHECK_NEAR(loss_of(loss, none, half, one, derivative), -std::log(eps / (2 + eps)), 1e-12, 0);
  CHECK_NEAR(loss_of(loss, half, half, one, derivative), 0.0, 0, 1e-15);
}

TEST(iou_loss_slopes) {
  check_slopes(IoULoss<double, ToneThreshold<double>>(iou_params(0.5, 8, 1e-6)));
  check_slopes(IoULoss<double, ToneThreshold<double>>(iou_params(0.3, 1.5, 1e-6)));
  check_slopes(IoULoss<double, SigmoidThreshold<double>>(iou_params(0.5, 8, 1e-6)));
}

TEST(slopes_of_the_other_losses) {
  for (double away : {0.0, 1.0}) {
    check_slopes(EnergyLoss<double>(one_param(away)));
    check_slopes(OutsideLoss<double>(one_param(away)));
  }
  check_slopes(CenterLoss<double>(one_param(0)));
  check_slopes(L1Loss<double>(one_param(0)));
  check_slopes(PPCELoss<double>(one_param(1e-3)));
}

// Two cells: x 1 and 0.5, S 0.5 and 1, w 1 and 2.
TEST(values_of_the_other_losses) {
  const std::vector<double> x{1, 0.5}, s{0.5, 1}, w{1, 2}, none{0, 0};
  double d[6];
  const auto value = [&](const auto& loss) { return loss_of(loss, x, s, w, d); };
  CHECK_NEAR(value(EnergyLoss<double>(one_param(0))), 0.25, 1e-15, 0);
  CHECK_NEAR(value(EnergyLoss<double>(one_param(1))), 0.75, 1e-15, 0);
  CHECK_NEAR(value(L1Loss<double>(one_param(0))), 0.5, 1e-15, 0);
  CHECK_NEAR(value(PPCELoss<double>(one_param(1e-3))),
             -(0.5 * std::log(1.001) + 2 * std::log(0.501)) / 2.5, 1e-14, 0);
  CHECK_NEAR(value(OutsideLoss<double>(one_param(0))), 1, 1e-15, 0);
  CHECK_NEAR(value(OutsideLoss<double>(one_param(1))), 0.4, 1e-15, 0);
  // Columns: the centroids are 0.5 and 0.8.
  CHECK_NEAR(value(CenterLoss<double>(one_param(0))), 0.3 * 0.3 / 16, 1e-13, 0);

  // A map without energy: a value, and finite slopes.
  const auto dead = [&](const auto& loss) { return loss_of(loss, none, s, w, d); };
  CHECK_NEAR(dead(EnergyLoss<double>(one_param(0))), 1, 0, 0);
  CHECK_NEAR(dead(EnergyLoss<double>(one_param(1))), 0, 0, 0);
  const CenterLoss<double> center(one_param(0));
  const double from_centre = (0.5 / 3 - 0.5) * (0.5 / 3 - 0.5) + (1.3 / 4 - 0.5) * (1.3 / 4 - 0.5);
  CHECK_NEAR(dead(center), from_centre, 1e-13, 0);
  CHECK_NEAR(center.slope(Cell<double>{0, 0.5, 1, 0, 0}, d), 0, 0, 0);
}

TEST(outside_is_defined_where_there_is_an_outside) {
  const auto defined = [](double away, double s) {
    const OutsideLoss<double> loss(one_param(away));
    double sum[2];
    loss.terms({0.5, s, 2, 0, 0}, sum);
    return loss.defined(sum);
  };
  CHECK(defined(0, 0.5) && !defined(0, 1) && !defined(0, 1.0005) && defined(0, kNan));
  CHECK(defined(1, 0.5) && defined(1, 1) && !defined(1, 0));
}

TEST(every_loss_lets_nan_through) {
  const LossParams params = iou_params(0.3, 2, 1e-6);
  for (int kind = 0; kind < kLossKinds; ++kind) {
    int visits = 0;
    visit_loss<double>(LossKind(kind), params, [&](const auto& loss) {
      ++visits;
      double d[8];
      CHECK(std::isnan(loss_of(loss, {0.5, kNan}, {0.5, 0.5}, {1, 1}, d)));
    });
    CHECK(visits == 1);
  }
}

TEST(every_kind_of_loss_is_visited_with_its_parameters) {
  const LossParams params = iou_params(0.3, 2, 1e-6);
  const Cells cells(5);
  const auto value = [&](const auto& loss) {
    double derivative[8];
    return loss_of(loss, cells.x, cells.s, cells.w, derivative);
  };
  const auto visited = [&](LossKind kind) {
    double result = kNan;
    visit_loss<double>(kind, params, [&](const auto& loss) { result = value(loss); });
    return result;
  };
  const double tone = value(IoULoss<double, ToneThreshold<double>>(params));
  const double sigmoid = value(IoULoss<double, SigmoidThreshold<double>>(params));
  const double hard = value(HardIoULoss<double>(params));
  CHECK(tone != sigmoid && tone != hard && sigmoid != hard);
  CHECK(visited(LossKind::kIoUTone) == tone);
  CHECK(visited(LossKind::kIoUSigmoid) == sigmoid);
  CHECK(visited(LossKind::kIoUHard) == hard);
  CHECK(visited(LossKind::kEnergy) == value(EnergyLoss<double>(params)));
  CHECK(visited(LossKind::kCenter) == value(CenterLoss<double>(params)));
  CHECK(visited(LossKind::kL1) == value(L1Loss<double>(params)));
  CHECK(visited(LossKind::kPPCE) == value(PPCELoss<double>(params)));
  CHECK(visited(LossKind::kOutside) == value(OutsideLoss<double>(params)));
}

TEST(hard_loss_has_the_value_of_the_set_and_the_slope_of_the_tone_curve) {
  const HardIoULoss<double> hard(iou_params(0.5, 8, 1e-6));
  const IoULoss<double, ToneThreshold<double>> soft(iou_params(0.5, 8, 1e-6));
  Cells cells(3);
  cells.x[0] = 0.5;  // not above the threshold
  double dh[4], ds[2], inter = 1e-6, uni = 1e-6;
  for (size_t p = 0; p < cells.x.size(); ++p) {
    const double m = cells.x[p] > 0.5 ? 1 : 0;
    inter += cells.w[p] * m * cells.s[p];
    uni += cells.w[p] * (m + cells.s[p] - m * cells.s[p]);
  }
  CHECK_NEAR(loss_of(hard, cells.x, cells.s, cells.w, dh), -std::log(inter / uni), 1e-12, 0);
  loss_of(soft, cells.x, cells.s, cells.w, ds);
  for (size_t p = 0; p < cells.x.size(); ++p) {
    CHECK_NEAR(hard.slope(cells.at(p), dh), soft.slope(cells.at(p), ds), 1e-14, 0);
  }
  double unused[4];
  cells.x[1] = kNan;
  CHECK(std::isnan(loss_of(hard, cells.x, cells.s, cells.w, unused)));
}

TEST(relu_keeps_nan) {
  CHECK_NEAR(relu(-2.0), 0, 0, 0);
  CHECK_NEAR(relu(3.0), 3, 0, 0);
  CHECK(std::isnan(relu(kNan)));
  CHECK(relu(kInf) == kInf);
}

// Kimura & Tanaka, eq. 7 and 8.
double tone_of_mask(double m, double n, double beta) {
  const double h = m < 0.5 ? std::pow(m / 0.5, n) / 2 : 1 - std::pow((1 - m) / 0.5, n) / 2;
  return (1 + beta) * h - beta;
}

TEST(tone_curve_of_a_mask_and_its_slope) {
  for (const ToneCurve& curve : {ToneCurve{1, 0}, {4, 0.3}, {2.5, 1}, {0.5, 0.2}, {0, 0.5}}) {
    const MaskTone<double> tone(curve);
    const MaskToneSlope<double> slope(curve);
    for (double m = 0.013; m < 1; m += 0.031) {
      CHECK_NEAR(tone(m), tone_of_mask(m, curve.n, curve.beta), 1e-13, 0);
      CHECK_NEAR(slope(m), central_difference(tone, m), 1e-5, 1e-8);
    }
    CHECK(std::isnan(tone(kNan)) == (curve.n != 0));
    for (double beyond : {1e-9, 0.4, 7.0, kInf}) {  // counts as 0 or 1
      CHECK(tone(-beyond) == tone(0.0) && tone(1 + beyond) == tone(1.0));
      CHECK(slope(-beyond) == 0 && slope(1 + beyond) == 0);
    }
  }
  CHECK_NEAR(MaskToneSlope<double>({0, 0.5})(0.0), 0, 0, 0);
}

TEST(peak_of_a_tie_is_the_first_cell_and_nan_wins) {
  const auto cell = [](Peak<double> a, Peak<double> b) { return higher_peak(a, b).cell; };
  for (bool swap : {false, true}) {
    const auto pick = [&](Peak<double> a, Peak<double> b) {
      return swap ? cell(b, a) : cell(a, b);
    };
    CHECK(pick({1.0, 3}, {1.0, 5}) == 3);
    CHECK(pick({1.0, 3}, {2.0, 5}) == 5);
    CHECK(pick({kNan, 5}, {9.0, 3}) == 5);
    CHECK(pick({kNan, 5}, {kNan, 3}) == 3);
    CHECK(pick({kInf, 2}, {kInf, 1}) == 1);
  }
}

// A constant expression may not read padding, so that this compiles only if there is none.
template <class T>
constexpr bool all_bits_are_values() {
  struct Words {
    uint32_t word[sizeof(T) / 4];
  };
  constexpr Words words = __builtin_bit_cast(Words, T{});
  return words.word[0] == 0;
}
static_assert(all_bits_are_values<Peak<float>>() && all_bits_are_values<Peak<double>>());

TEST(map_gradient_goes_through_relu_and_peak) {
  CHECK_NEAR(map_divisor(0.0), 1, 0, 0);
  CHECK_NEAR(map_divisor(1e-310), 1e-310, 0, 0);
  CHECK_NEAR(map_gradient(0.0, 5.0, 1.0, false, 2.0), 0, 0, 0);
  CHECK_NEAR(map_gradient(-1.0, 5.0, 1.0, false, 2.0), 0, 0, 0);
  CHECK_NEAR(map_gradient(1.0, 5.0, 3.0, false, 2.0), 2.5, 0, 0);
  CHECK_NEAR(map_gradient(2.0, 5.0, 3.0, true, 2.0), 1.0, 0, 0);
}

}  // namespace

int main() { return check::run(); }
