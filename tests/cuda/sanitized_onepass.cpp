// The one-pass kernels as a program, to be compiled with a sanitizer. Every result is compared with
// a few plain loops in double.
//
//   sanitized_onepass fibers | threads
#include <cstdio>
#include <random>
#include <string>

#include "emulated_launch.h"
// the launchers after it
#include "cuda/cam/launch.cuh"
#include "cuda/onepass/launch.cuh"
#include "sanitized_loss.h"
#include "sanitized_memory.h"

namespace {

using namespace emulator;
using namespace fastcam;

struct Case {
  const char* name;
  int64_t batch, targets, channels, cells, grad_cells;
  bool channels_last;
  int shared_limit;    // small: several blocks share a sample
  int64_t offset = 0;  // of A and D in their storage: no vector is aligned with the data
  LossKind kind = LossKind::kIoUTone;
};

template <class S, int kTargets>
bool run(const Case& c, Mode mode, bool reversed) {
  Device device;
  device.options = {mode, reversed, false, 1, 1};
  const auto site = site_of(device, 1);
  const int64_t N = c.batch, T = c.targets, C = c.channels, P = c.cells, Q = c.grad_cells;

  Array<S> activations(&device, N * C * P, c.offset), gradients(&device, N * T * C * Q, c.offset);
  Array<S> grad_activations(&device, N * C * P);
  Array<float> regions(&device, N * T * P), loss(&device, N * T), alpha(&device, N * T * C);
  Array<float> grad_map(&device, N * T * P), grad_gradients(&device, N * T * C);
  Array<float> scaled(&device, N * T * C), grad(&device, 1), reduced(&device, 1);
  Array<float> pairs(&device, 1);
  Array<uint8_t> status(&device, N * T);
  std::mt19937 random(1);
  std::uniform_real_distribution<float> uniform(0.0f, 1.0f);
  for (int64_t i = 0; i < N * C * P; ++i) activations[i] = from_acc<S>(uniform(random));
  for (int64_t i = 0; i < N * T * C * Q; ++i) gradients[i] = from_acc<S>(uniform(random) - 0.4f);
  for (int64_t i = 0; i < N * T * P; ++i) regions[i] = uniform(random);
  grad[0] = 3.0f;

  CamLossForward pass{};
  CamLoss& op = pass.loss;
  op.in = {N,
           T,
           C,
           P,
           Q,
           activations.data(),
           C * P,
           c.channels_last,
           gradients.data(),
           T * C * Q,
           C * Q,
           c.channels_last};
  op.regions = {regions.data(), T * P, P};
  op.kind = c.kind;
  op.params = kSanitizedParams;
  op.params.cols = int32_t(P);
  op.alpha = alpha.data();
  op.grad_map = grad_map.data();
  op.loss = loss.data();
  op.status = status.data();
  pass.reduction = Reduction::kMean;
  pass.grad_gradients = grad_gradients.data();
  pass.reduced = reduced.data();
  pass.count = pairs.data();
  if (!launch_pass<S, kTargets, AllLosses<float>>(pass, false, c.shared_limit, site)) return false;

  CamLossBackward back{};
  back.batch = N;
  back.targets = T;
  back.channels = C;
  back.cells = P;
  back.channels_last = c.channels_last;
  back.alpha = alpha.data();
  back.grad_map = grad_map.data();
  back.grad_gradients = grad_gradients.data();
  back.status = status.data();
  back.grad = {grad.data(), 0, 0};
  back.count = pairs.data();
  back.grad_activations = grad_activations.data();
  back.scaled_gradients = scaled.data();
  launch_pass_backward<S, kTargets>(back, site);

  const double scale = 3.0 / double(N * T), stored = sizeof(S) == 2 ? 1e-2 : 1e-4;
  const auto a_at = [&](int64_t n, int64_t ch, int64_t p) {
    return n * C * P + (c.channels_last ? p * C + ch : ch * P + p);
  };
  double total = 0;
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t t = 0; t < T; ++t) {
      const int64_t pair = n * T + t;
      std::vector<double> map(size_t(P), 0.0);
      for (int64_t ch = 0; ch < C; ++ch) {
        double weight = 0, wanted = 0;
        for (int64_t q = 0; q < Q; ++q) {
          const int64_t at = pair * C * Q + (c.channels_last ? q * C + ch : ch * Q + q);
          weight += double(to_acc(gradients[at])) / double(P);
        }
        if (!near(alpha[pair * C + ch], weight, 1e-5)) return false;
        for (int64_t p = 0; p < P; ++p) {
          const double a = double(to_acc(activations[a_at(n, ch, p)]));
          map[size_t(p)] += weight * a;
          wanted += double(grad_map[pair * P + p]) * a / double(P);
        }
        if (!near(grad_gradients[pair * C + ch], wanted, 1e-4)) return false;
        if (!near(scaled[pair * C + ch], scale * wanted, 1e-4)) return false;
      }
      double peak = 0;
      for (double& r : map) peak = std::max(peak, r = r > 0 ? r : 0);
      const double wanted = loss_of(c.kind, map, peak, regions.data() + pair * P);
      if (!near(loss[pair], wanted, 1e-3)) return false;
      total += wanted;
    }
    for (int64_t ch = 0; ch < C; ++ch) {
      for (int64_t p = 0; p < P; ++p) {
        double wanted = 0;
        for (int64_t t = 0; t < T; ++t) {
          wanted += double(grad_map[(n * T + t) * P + p]) * double(alpha[(n * T + t) * C + ch]);
        }
        const double got = to_acc(grad_activations[a_at(n, ch, p)]);
        if (!near(got, scale * wanted, stored)) return false;
      }
    }
  }
  return near(reduced[0], total / double(N * T), 1e-3) && near(pairs[0], double(N * T), 0);
}

constexpr int kWhole = int(kClusterSharedBytes);
const Case kCases[] = {
    {"odd map", 2, 1, 12, 35, 9, false, kWhole},
    {"odd map, one value off", 2, 1, 12, 35, 9, false, kWhole, 1, LossKind::kIoUSigmoid},
    {"channels last", 2, 1, 16, 35, 9, true, kWhole, 0, LossKind::kIoUHard},
    {"two blocks a sample", 2, 1, 24, 35, 4, false, 6 * 1024},
};
const Case kTargetCases[] = {
    {"five targets", 1, 5, 12, 35, 4, false, kWhole},
    {"two blocks a sample, channels last", 1, 3, 24, 35, 4, true, 17 * 1024},
};

}  // namespace

int main(int, char** arguments) {
  const Mode mode = std::string(arguments[1]) == "threads" ? Mode::kThreads : Mode::kFibers;
  const auto report = [](const Case& c, const char* type, bool good) {
    std::printf("%s, %s: %s\n", c.name, type, good ? "ok" : "WRONG");
    std::fflush(stdout);
    return good;
  };
  bool good = true;
  for (const bool reversed : {false, true}) {
    if (reversed && mode == Mode::kThreads) break;
    for (const Case& c : kCases) {
      if (mode == Mode::kThreads && c.offset != 0) continue;  // none of its business
      good = report(c, "float", run<float, 1>(c, mode, reversed)) && good;
    }
    for (const Case& c : kTargetCases) {
      good = report(c, "bfloat16", run<BFloat16, 4>(c, mode, reversed)) && good;
    }
  }
  return good ? 0 : 1;
}
