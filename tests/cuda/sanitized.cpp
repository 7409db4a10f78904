// The emulated kernels as a program, to be compiled with a sanitizer. Every result is compared with
// a few plain loops in double.
//
//   sanitized                    forward and backward of several shapes
//   sanitized planted "<bug>"
#include <algorithm>
#include <string>

#include "planted_bugs.h"
#include "sanitized_loss.h"

namespace {

using namespace emulator;
using namespace fastcam;

using Case = LossCase;

template <class S, int kTargets>
bool run(const Case& c, bool reversed) {
  SmallDevice on(reversed);
  LossTensors<S> k(&on.device, c);
  const int64_t N = c.batch, T = c.targets, C = c.channels, P = c.cells;
  Array<float> cam(&on.device, N * T * P), peaks(&on.device, N * T);

  const CamLossForward loss_op = k.op(Reduction::kSum);
  launch_forward<S, kTargets, AnyLossFinish<float>>(loss_op, false, on.site);
  launch_backward<S, kTargets>(sums_of_gradients(loss_op), on.site);
  std::vector<float> constants(size_t(N * T * C));
  double sum = 0;
  for (int64_t i = 0; i < N * T; ++i) sum += double(k.loss[i]);
  if (!near(k.reduced[0], sum, 1e-4) || k.count[0] != float(N * T)) return false;
  for (int64_t i = 0; i < N * T * C; ++i) constants[size_t(i)] = k.grad_gradients[i];

  // alpha once more; and as upstream gradient the regions.
  const CamForward grad_cam{loss_op.loss.in, true, k.alpha.data(), cam.data(), peaks.data()};
  launch_forward<S, kTargets, MapFinish<float>>(grad_cam, false, on.site);
  CamBackward backward = sums_of_gradients(loss_op);
  backward.grad_map = nullptr;
  backward.status = nullptr;
  backward.cam = cam.data();
  backward.peak = peaks.data();
  backward.grad = {k.regions.data(), T * P, P};
  backward.grad_stride_h = P;
  backward.grad_stride_w = 1;
  backward.cols = P;
  backward.normalize = true;
  backward.grad_activations = k.grad_activations.data();
  launch_backward<S, kTargets>(backward, on.site);
  std::vector<double> of_cam(size_t(N * T * P));
  for (int64_t pair = 0; pair < N * T; ++pair) {
    const float* x = cam.data() + pair * P;
    const float* grad = k.regions.data() + pair * P;
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
      for (int64_t ch = 0; ch < C; ++ch) {
        if (!near(k.alpha[pair * C + ch], k.expected_alpha(pair, ch), 1e-5)) return false;
      }
      const std::vector<double> map = k.expected_map(n, t);
      const double peak = *std::max_element(map.begin(), map.end());
      if (!near(peaks[pair], peak, 1e-4)) return false;
      for (int64_t p = 0; p < P; ++p) {
        if (!near(cam[pair * P + p], map[size_t(p)] / (peak == 0 ? 1 : peak), 1e-4)) return false;
      }
      if (!near(k.loss[pair], k.expected_loss(pair, map, peak), 1e-3)) return false;
      for (int64_t ch = 0; ch < C; ++ch) {
        const double of_loss = k.expected_sum(k.grad_map, pair, ch);
        if (!near(constants[size_t(pair * C + ch)], of_loss, 1e-4)) return false;
        const double of_map = k.expected_sum(of_cam, pair, ch);
        if (!near(k.grad_gradients[pair * C + ch], of_map, 1e-3)) return false;
      }
    }
    for (int64_t ch = 0; ch < C; ++ch) {
      for (int64_t p = 0; p < P; ++p) {
        const double wanted = k.expected_product(of_cam, n, ch, p);
        if (!near(to_acc(k.grad_activations[k.at(n, ch, p)]), wanted, stored)) return false;
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

}  // namespace

int main(int count, char** arguments) {
  const std::string first = count > 1 ? arguments[1] : "";
  if (first == "planted") {
    Device device;
    std::vector<float> data(64, 1.0f);
    device.add_buffer(data.data(), data.size() * sizeof(float));
    run_planted_bug(device, arguments[2], data.data());
    std::puts("not noticed");
    return 0;
  }
  bool good = true;
  for (const bool reversed : {false, true}) {
    for (const Case& c : kCases) {
      good = report(c.name, "float", run<float, 1>(c, reversed)) && good;
      good = report(c.name, "bfloat16", run<BFloat16, 1>(c, reversed)) && good;
    }
    for (const Case& c : kTargetCases) {
      good = report(c.name, "float", run<float, 4>(c, reversed)) && good;
    }
  }
  return good ? 0 : 1;
}
