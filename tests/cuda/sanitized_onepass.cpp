// The one-pass kernels as a program, to be compiled with a sanitizer. Every result is compared with
// a few plain loops in double.
#include <algorithm>

#include "emulated_launch.h"
// the launchers after it
#include "cuda/cam/launch.cuh"
#include "cuda/onepass/launch.cuh"
#include "sanitized_loss.h"

namespace {

using namespace emulator;
using namespace fastcam;

using Case = LossCase;

template <class S, int kTargets>
bool run(const Case& c, bool reversed, bool ring = false) {
  SmallDevice on(reversed);
  on.site.ring = ring;
  LossTensors<S> k(&on.device, c);
  const int64_t N = c.batch, T = c.targets, C = c.channels, P = c.cells;
  Array<float> scaled(&on.device, N * T * C), grad(&on.device, 1);
  grad[0] = 3.0f;

  const CamLossForward pass = k.op(Reduction::kMean);
  if (!launch_pass<S, kTargets, AllLosses<float>>(pass, false, c.shared_limit, on.site))
    return false;

  CamLossBackward back{};
  back.batch = N;
  back.targets = T;
  back.channels = C;
  back.cells = P;
  back.channels_last = c.channels_last;
  back.alpha = k.alpha.data();
  back.grad_map = k.grad_map.data();
  back.grad_gradients = k.grad_gradients.data();
  back.status = k.status.data();
  back.grad = {grad.data(), 0, 0};
  back.count = k.count.data();
  back.grad_activations = k.grad_activations.data();
  back.scaled_gradients = scaled.data();
  launch_pass_backward<S, kTargets>(back, on.site);

  const double scale = 3.0 / double(N * T), stored = sizeof(S) == 2 ? 1e-2 : 1e-4;
  double total = 0;
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t t = 0; t < T; ++t) {
      const int64_t pair = n * T + t;
      for (int64_t ch = 0; ch < C; ++ch) {
        if (!near(k.alpha[pair * C + ch], k.expected_alpha(pair, ch), 1e-5)) return false;
        const double wanted = k.expected_sum(k.grad_map, pair, ch);
        if (!near(k.grad_gradients[pair * C + ch], wanted, 1e-4)) return false;
        if (!near(scaled[pair * C + ch], scale * wanted, 1e-4)) return false;
      }
      const std::vector<double> map = k.expected_map(n, t);
      const double wanted = k.expected_loss(pair, map, *std::max_element(map.begin(), map.end()));
      if (!near(k.loss[pair], wanted, 1e-3)) return false;
      total += wanted;
    }
    for (int64_t ch = 0; ch < C; ++ch) {
      for (int64_t p = 0; p < P; ++p) {
        const double wanted = k.expected_product(k.grad_map, n, ch, p);
        const double got = to_acc(k.grad_activations[k.at(n, ch, p)]);
        if (!near(got, scale * wanted, stored)) return false;
      }
    }
  }
  return near(k.reduced[0], total / double(N * T), 1e-3) && near(k.count[0], double(N * T), 0);
}

const Case kCases[] = {
    {"odd map", 2, 1, 12, 35, 9, false},
    {"odd map, one value off", 2, 1, 12, 35, 9, false, 1, LossKind::kIoUSigmoid},
    {"channels last", 2, 1, 16, 35, 9, true, 0, LossKind::kIoUHard},
    {"two blocks a sample", 2, 1, 24, 35, 4, false, 0, LossKind::kIoUTone, 15 * 1024},
};
const Case kTargetCases[] = {
    {"three targets", 1, 3, 12, 35, 4, false},
    {"two blocks a sample, channels last", 1, 3, 24, 35, 4, true, 0, LossKind::kIoUTone, 17 * 1024},
};
const Case kRing = {"sixteen targets in a ring", 1, 16, 12, 35, 9, false};
const Case kManyTargets = {"seventeen targets, in two passes", 1, 17, 12, 35, 4, false};

}  // namespace

int main() {
  bool good = true;
  for (const bool reversed : {false, true}) {
    for (const Case& c : kCases) {
      good = report(c.name, "float", run<float, 1>(c, reversed)) && good;
    }
    for (const Case& c : kTargetCases) {
      for (const bool ring : {false, true}) {
        good = report(c.name, "bfloat16", run<BFloat16, 4>(c, reversed, ring)) && good;
      }
    }
    good = report(kRing.name, "float", run<float, 16>(kRing, reversed, true)) && good;
    good = report(kManyTargets.name, "float", run<float, 16>(kManyTargets, reversed)) && good;
  }
  return good ? 0 : 1;
}
