// The emulated kernels as a program, to be compiled with a sanitizer. Every result is compared with
// a few plain loops in double.
//
//   sanitized fibers | threads          forward and backward of several shapes
//   sanitized planted "<bug>" fibers | threads
#include <algorithm>
#include <cstdio>
#include <random>

#include "planted_bugs.h"
#include "sanitized_loss.h"
#include "sanitized_memory.h"

namespace {

using namespace emulator;
using namespace fastcam;

struct Case {
  const char* name;
  int64_t batch, targets, channels, cells, grad_cells;
  bool channels_last;
  int64_t offset = 0;  // of A and D in their storage: no vector is aligned with the data
  LossKind kind = LossKind::kIoUTone;
};

template <class S, int kTargets>
bool run(const Case& c, Mode mode, bool reversed) {
  Device device;
  device.options = {mode, reversed, false, 1, 1};
  const auto site = site_of(device, 1);
  const int64_t N = c.batch, T = c.targets, C = c.channels, P = c.cells, Q = c.grad_cells;

  Array<S> activations(&device, N * C * P, c.offset);
  Array<S> gradients(&device, N * T * C * Q, c.offset);
  Array<S> grad_activations(&device, N * C * P);
  Array<float> regions(&device, N * T * P), loss(&device, N * T), alpha(&device, N * T * C);
  Array<float> grad_map(&device, N * T * P), grad_gradients(&device, N * T * C);
  Array<float> cam(&device, N * T * P), peaks(&device, N * T);
  Array<float> reduced(&device, 1), counted(&device, 1);
  Array<uint8_t> status(&device, N * T);
  std::mt19937 random(1);
  std::uniform_real_distribution<float> uniform(0.0f, 1.0f);
  for (int64_t i = 0; i < activations.count(); ++i) {
    activations[i] = from_acc<S>(uniform(random));
  }
  for (int64_t i = 0; i < gradients.count(); ++i) {
    gradients[i] = from_acc<S>(uniform(random) - 0.4f);
  }
  for (int64_t i = 0; i < regions.count(); ++i) regions[i] = uniform(random);

  const auto a_at = [&](int64_t ch, int64_t p) {
    return c.channels_last ? p * C + ch : ch * P + p;
  };
  const auto d_at = [&](int64_t ch, int64_t q) {
    return c.channels_last ? q * C + ch : ch * Q + q;
  };

  CamLoss forward{};
  forward.in = {N,
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
  forward.regions = {regions.data(), T * P, P};
  forward.kind = c.kind;
  forward.params = kSanitizedParams;
  forward.params.cols = int32_t(P);
  forward.alpha = alpha.data();
  forward.grad_map = grad_map.data();
  forward.loss = loss.data();
  forward.status = status.data();
  CamLossForward loss_op{forward, Reduction::kSum, grad_gradients.data(), reduced.data(),
                         counted.data()};
  launch_forward<S, kTargets, AnyLossFinish<float>>(loss_op, false, site);
  launch_backward<S, kTargets>(sums_of_gradients(loss_op), site);
  std::vector<float> constants(size_t(N * T * C));
  double sum = 0;
  for (int64_t i = 0; i < N * T; ++i) sum += double(loss[i]);
  if (!near(reduced[0], sum, 1e-4) || counted[0] != float(N * T)) return false;
  for (int64_t i = 0; i < N * T * C; ++i) constants[size_t(i)] = grad_gradients[i];

  // alpha once more; and as upstream gradient the regions.
  const CamForward grad_cam{forward.in, true, alpha.data(), cam.data(), peaks.data()};
  launch_forward<S, kTargets, MapFinish<float>>(grad_cam, false, site);
  CamBackward backward{};
  backward.batch = N;
  backward.targets = T;
  backward.channels = C;
  backward.cells = P;
  backward.activations = activations.data();
  backward.activations_stride_n = C * P;
  backward.activations_channels_last = c.channels_last;
  backward.alpha = alpha.data();
  backward.cam = cam.data();
  backward.peak = peaks.data();
  backward.grad = {regions.data(), T * P, P};
  backward.grad_stride_h = P;
  backward.grad_stride_w = 1;
  backward.cols = P;
  backward.normalize = true;
  backward.grad_activations = grad_activations.data();
  backward.grad_gradients = grad_gradients.data();
  launch_backward<S, kTargets>(backward, site);
  std::vector<double> of_cam(size_t(N * T * P));
  for (int64_t pair = 0; pair < N * T; ++pair) {
    const float* x = cam.data() + pair * P;
    const float* grad = regions.data() + pair * P;
    const int64_t top = std::max_element(x, x + P) - x;
    double weighted = 0;
    for (int64_t p = 0; p < P; ++p) weighted += double(grad[p]) * double(x[p]);
    for (int64_t p = 0; p < P; ++p) {
      const double slope = double(grad[p]) - (p == top ? weighted : 0);
      of_cam[size_t(pair * P + p)] = x[p] > 0 ? slope / double(peaks[pair]) : 0;
    }
  }

  const double stored = sizeof(S) == 2 ? 1e-2 : 1e-4;
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t t = 0; t < T; ++t) {
      const int64_t pair = n * T + t;
      std::vector<double> weight(size_t(C), 0.0), map(size_t(P), 0.0);
      for (int64_t ch = 0; ch < C; ++ch) {
        for (int64_t q = 0; q < Q; ++q) {
          weight[size_t(ch)] += double(to_acc(gradients[pair * C * Q + d_at(ch, q)])) / double(P);
        }
        if (!near(alpha[pair * C + ch], weight[size_t(ch)], 1e-5)) return false;
        for (int64_t p = 0; p < P; ++p) {
          map[size_t(p)] +=
              weight[size_t(ch)] * double(to_acc(activations[n * C * P + a_at(ch, p)]));
        }
      }
      double peak = 0;
      for (double& r : map) peak = std::max(peak, r = r > 0 ? r : 0);
      if (!near(peaks[pair], peak, 1e-4)) return false;
      for (int64_t p = 0; p < P; ++p) {
        if (!near(cam[pair * P + p], map[size_t(p)] / (peak == 0 ? 1 : peak), 1e-4)) return false;
      }
      const double wanted_loss = loss_of(c.kind, map, peak, regions.data() + pair * P);
      if (!near(loss[pair], wanted_loss, 1e-3)) return false;
      for (int64_t ch = 0; ch < C; ++ch) {
        double wanted = 0, wanted_of_cam = 0;
        for (int64_t p = 0; p < P; ++p) {
          const double a = double(to_acc(activations[n * C * P + a_at(ch, p)])) / double(P);
          wanted += double(grad_map[pair * P + p]) * a;
          wanted_of_cam += of_cam[size_t(pair * P + p)] * a;
        }
        if (!near(constants[size_t(pair * C + ch)], wanted, 1e-4)) return false;
        if (!near(grad_gradients[pair * C + ch], wanted_of_cam, 1e-3)) return false;
      }
    }
    for (int64_t ch = 0; ch < C; ++ch) {
      for (int64_t p = 0; p < P; ++p) {
        double wanted = 0;
        for (int64_t t = 0; t < T; ++t) {
          wanted += of_cam[size_t((n * T + t) * P + p)] * double(alpha[(n * T + t) * C + ch]);
        }
        if (!near(to_acc(grad_activations[n * C * P + a_at(ch, p)]), wanted, stored)) return false;
      }
    }
  }
  return true;
}

const Case kCases[] = {
    {"odd map", 2, 1, 12, 35, 9, false},
    {"odd map, channels last", 2, 1, 12, 35, 9, true},
    {"odd map, one value off", 2, 1, 12, 35, 9, false, 1},
    {"channels last, one value off", 2, 1, 16, 35, 9, true, 1, LossKind::kIoUSigmoid},
    {"channel blocks", 1, 1, 136, 35, 6, false, 0, LossKind::kIoUHard},
    {"channel blocks, channels last", 1, 1, 136, 35, 6, true},
    {"one cell", 2, 1, 9, 1, 1, false},
    {"long period", 1, 1, 5, 1581, 2, false, 3},
};
const Case kTargetCases[] = {
    {"five targets", 1, 5, 12, 35, 4, false, 0, LossKind::kIoUSigmoid},
    {"five targets, one value off", 1, 5, 12, 35, 4, false, 1},
    {"five targets, channels last", 1, 5, 12, 35, 4, true},
    {"map in global memory", 1, 3, 3, 3001, 1, false},
};

// For real threads, which are slow: alignment is none of their business.
bool races(const Case& c) { return c.cells <= 1000 && c.offset == 0; }

}  // namespace

int main(int count, char** arguments) {
  const std::string first = count > 1 ? arguments[1] : "";
  const std::string last = arguments[count - 1];
  const Mode mode = last == "threads" ? Mode::kThreads : Mode::kFibers;
  if (first == "planted") {
    Device device;
    device.options.mode = mode;
    std::vector<float> data(64, 1.0f);
    device.add_buffer(data.data(), data.size() * sizeof(float));
    run_planted_bug(device, arguments[2], data.data());
    std::puts("not noticed");
    return 0;
  }
  const auto report = [](const Case& c, const char* type, bool good) {
    std::printf("%s, %s: %s\n", c.name, type, good ? "ok" : "WRONG");
    std::fflush(stdout);
    return good;
  };
  bool good = true;
  for (const bool reversed : {false, true}) {
    if (reversed && mode == Mode::kThreads) break;
    for (const Case& c : kCases) {
      if (mode == Mode::kThreads && !races(c)) continue;
      good = report(c, "float", run<float, 1>(c, mode, reversed)) && good;
      good = report(c, "bfloat16", run<BFloat16, 1>(c, mode, reversed)) && good;
    }
    for (const Case& c : kTargetCases) {
      if (mode == Mode::kThreads && !races(c)) continue;
      good = report(c, "float", run<float, 4>(c, mode, reversed)) && good;
    }
  }
  return good ? 0 : 1;
}
