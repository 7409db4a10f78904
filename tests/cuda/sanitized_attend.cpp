// The tone curve's and attend's emulated kernels as a program, to be compiled with a sanitizer; as
// sanitized.cpp. Every result is compared with plain loops in double.
#include <random>

#include "emulated_launch.h"
// the launchers after it
#include "cuda/attend/launch.cuh"
#include "sanitized_memory.h"

namespace {

using namespace emulator;
using namespace fastcam;

struct Case {
  const char* name;
  int64_t batch, attributes, channels, cells;
  bool pool;
  ToneCurve curve;
  int64_t offset = 0;  // of F and L in their storage: no vector is aligned with the data
};

// Kimura & Tanaka, eq. 7 and 8 of a logit, and its derivative by differences of the mask.
double factor(double logit, const ToneCurve& curve) {
  return 1 + MaskTone<double>(curve)(1 / (1 + std::exp(-logit)));
}
double slope(double logit, const ToneCurve& curve) {
  return (factor(logit + 1e-5, curve) - factor(logit - 1e-5, curve)) / 2e-5;
}

template <class S>
void fill(Array<S>& values, std::mt19937& random) {
  std::uniform_real_distribution<float> uniform(-2.0f, 2.0f);
  for (int64_t i = 0; i < values.count(); ++i) values[i] = from_acc<S>(uniform(random));
}

template <class S>
bool run(const Case& c, bool reversed) {
  SmallDevice on(reversed);
  const int64_t N = c.batch, K = c.attributes, C = c.channels, P = c.cells;
  Array<S> features(&on.device, N * C * P, c.offset), logits(&on.device, N * K * C * P, c.offset);
  const int64_t outputs = N * K * C * (c.pool ? 1 : P);
  Array<S> out(&on.device, 2 * outputs), grad_out(&on.device, outputs);
  Array<S> grad_features(&on.device, N * C * P), grad_logits(&on.device, N * K * C * P);
  Array<float> mask_sum(&on.device, N * K), grad_mask_sum(&on.device, N * K);
  std::mt19937 random(1);
  fill(features, random);
  fill(logits, random);
  fill(grad_out, random);
  fill(grad_mask_sum, random);

  const ToneCurve curves[2] = {{1.0, 0.0}, c.curve};
  const AttendShape shape{N, K, C, P};
  const RowStrides strides{K * C * P, C * P, P};
  const AttendForward forward{shape,         c.pool,  2,          curves,         features.data(),
                              logits.data(), strides, out.data(), mask_sum.data()};
  if (c.pool) {
    launch_attend_forward_of<S, true>(forward, on.site);
  } else {
    launch_attend_forward_of<S, false>(forward, on.site);
  }
  const AttendBackward backward{shape,
                                c.pool,
                                c.curve,
                                features.data(),
                                logits.data(),
                                strides,
                                grad_out.data(),
                                grad_mask_sum.data(),
                                grad_features.data(),
                                grad_logits.data(),
                                strides};
  if (c.pool) {
    launch_attend_backward_of<S, true>(backward, on.site);
  } else {
    launch_attend_backward_of<S, false>(backward, on.site);
  }

  const double stored = sizeof(S) == 2 ? 2e-2 : 1e-4;
  const auto value = [](Array<S>& values, int64_t i) { return double(to_acc(values[i])); };
  std::vector<double> wanted_sums(size_t(N * K), 0.0);
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t ch = 0; ch < C; ++ch) {
      std::vector<double> wanted_features(size_t(P), 0.0);
      for (int64_t k = 0; k < K; ++k) {
        const int64_t row = (n * K + k) * C + ch;
        double mean[2] = {};
        for (int64_t p = 0; p < P; ++p) {
          const double f = value(features, (n * C + ch) * P + p);
          const double logit = value(logits, row * P + p);
          const double mask = 1 / (1 + std::exp(-logit));
          wanted_sums[size_t(n * K + k)] += mask;
          for (int j = 0; j < 2; ++j) {
            const double z = factor(logit, curves[j]) * f;
            mean[j] += z / double(P);
            if (!c.pool && !near(value(out, j * outputs + row * P + p), z, stored)) return false;
          }
          const double dz =
              c.pool ? value(grad_out, row) / double(P) : value(grad_out, row * P + p);
          wanted_features[size_t(p)] += dz * factor(logit, c.curve);
          const double wanted =
              dz * f * slope(logit, c.curve) + double(grad_mask_sum[n * K + k]) * mask * (1 - mask);
          if (!near(value(grad_logits, row * P + p), wanted, stored)) return false;
        }
        for (int j = 0; c.pool && j < 2; ++j) {
          if (!near(value(out, j * outputs + row), mean[j], stored)) return false;
        }
      }
      for (int64_t p = 0; p < P; ++p) {
        const double wanted = wanted_features[size_t(p)];
        if (!near(value(grad_features, (n * C + ch) * P + p), wanted, stored)) return false;
      }
    }
  }
  for (int64_t i = 0; i < N * K; ++i) {
    if (!near(mask_sum[i], wanted_sums[size_t(i)], 1e-4)) return false;
  }
  return true;
}

template <class S>
bool run_tone_curve(const Case& c, bool reversed) {
  SmallDevice on(reversed);
  const int64_t count = c.batch * c.channels * c.cells;
  Array<S> mask(&on.device, count, c.offset), grad(&on.device, count, c.offset);
  Array<S> out(&on.device, count, c.offset), grad_mask(&on.device, count);
  std::mt19937 random(2);
  std::uniform_real_distribution<float> uniform(0.05f, 0.95f);
  for (int64_t i = 0; i < count; ++i) {
    mask[i] = from_acc<S>(uniform(random));
    grad[i] = from_acc<S>(uniform(random));
  }
  const ToneCurveOp forward{count, c.curve, mask.data(), nullptr, out.data()};
  const ToneCurveOp backward{count, c.curve, mask.data(), grad.data(), grad_mask.data()};
  launch_tone_curve_of<S, false>(forward, on.site);
  launch_tone_curve_of<S, true>(backward, on.site);
  const double stored = sizeof(S) == 2 ? 2e-2 : 1e-4;
  for (int64_t i = 0; i < count; ++i) {
    const double m = to_acc(mask[i]);
    const double n = c.curve.n;
    const double x = 2 * (m < 0.5 ? m : 1 - m);
    const double part = 0.5 * std::pow(x, n);
    const double gain = 1 + c.curve.beta;
    const double g = gain * (m < 0.5 ? part : 1 - part) - c.curve.beta;
    if (!near(to_acc(out[i]), g, stored)) return false;
    const double wanted = double(to_acc(grad[i])) * gain * n * std::pow(x, n - 1);
    if (!near(to_acc(grad_mask[i]), wanted, stored)) return false;
  }
  return true;
}

const Case kCases[] = {
    {"cells", 2, 3, 8, 35, false, {4.0, 0.3}},
    {"cells, one value off", 1, 3, 8, 35, false, {2.5, 0.1}, 1},
    {"pooled", 2, 3, 8, 35, true, {4.0, 0.3}},
    {"pooled, one value off", 1, 3, 8, 35, true, {0.5, 0.2}, 1},
    {"odd sample", 2, 3, 3, 15, true, {2.0, 0.0}},
    {"one attribute, one channel", 1, 1, 1, 16, true, {3.0, 1.0}},
    {"one cell", 2, 5, 24, 1, true, {2.0, 0.5}},
    {"channel longer than a block", 1, 2, 1, 2052, true, {2.0, 0.5}},
};

}  // namespace

int main() {
  bool good = true;
  for (const bool reversed : {false, true}) {
    for (const Case& c : kCases) {
      const bool right[] = {run<float>(c, reversed), run<BFloat16>(c, reversed),
                            run_tone_curve<float>(c, reversed),
                            run_tone_curve<BFloat16>(c, reversed)};
      for (int i = 0; i < 4; ++i) {
        constexpr const char* kWhat[] = {"attend", "attend in bfloat16", "tone curve",
                                         "tone curve in bfloat16"};
        good = report(c.name, kWhat[i], right[i]) && good;
      }
    }
  }
  return good ? 0 : 1;
}
