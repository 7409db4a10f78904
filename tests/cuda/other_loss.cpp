// A loss that the library has not. A policy and a family of one are all it takes: map,
// normalisation, layouts, and the whole backward come from the kernels as they are, in two passes
// over A and in one.
#include <cstdio>
#include <random>

#include "emulated_launch.h"
// the launchers after it
#include "cuda/cam/launch.cuh"
#include "cuda/onepass/launch.cuh"

namespace {

using namespace emulator;
using namespace fastcam;

// Weighted mean of (x - s)^2 over the cells; a loss that is not defined without weights.
template <class T>
struct SquaredDistance {
  static constexpr int kSums = 2;

  FASTCAM_HD explicit SquaredDistance(const LossParams&) {}
  FASTCAM_HD void terms(const Cell<T>& cell, T* t) const {
    t[0] = cell.w * (cell.x - cell.s) * (cell.x - cell.s);
    t[1] = cell.w;
  }
  FASTCAM_HD T combine(const T* sum, T* d) const {
    d[0] = T(1) / sum[1];
    d[1] = -sum[0] / (sum[1] * sum[1]);
    return sum[0] / sum[1];
  }
  FASTCAM_HD T slope(const Cell<T>& cell, const T* d) const {
    return T(2) * cell.w * (cell.x - cell.s) * d[0];
  }
  FASTCAM_HD static bool defined(const T* sum) { return sum[1] != T(0); }
};
template <class Acc>
struct SquaredFamily {
  template <class F>
  FASTCAM_DEVICE static void visit(const CamLoss& op, const F& f) {
    f(SquaredDistance<Acc>(op.params));
  }
};

constexpr int64_t N = 2, T = 3, C = 5, P = 15, Q = 4;

struct Call {
  std::vector<double> activations = std::vector<double>(N * C * P);
  std::vector<double> gradients = std::vector<double>(N * T * C * Q);
  std::vector<double> regions = std::vector<double>(N * T * P);
  std::vector<double> loss = std::vector<double>(N * T);
  std::vector<double> alpha = std::vector<double>(N * T * C);
  std::vector<double> grad_map = std::vector<double>(N * T * P);
  std::vector<double> grad_activations = std::vector<double>(N * C * P);
  std::vector<double> grad_gradients = std::vector<double>(N * T * C);
  std::vector<double> scaled_gradients = std::vector<double>(N * T * C);
  double reduced = 0, pairs = 0, one = 1;
  std::vector<uint8_t> status = std::vector<uint8_t>(N * T);
  Device device;

  Call() {
    std::mt19937 random(1);
    std::uniform_real_distribution<double> uniform(0.0, 1.0);
    for (double& a : activations) a = uniform(random);
    for (double& d : gradients) d = uniform(random) - 0.2;
    for (double& s : regions) s = uniform(random);
    for (auto* values : {&activations, &gradients, &regions, &loss, &alpha, &grad_map,
                         &grad_activations, &grad_gradients, &scaled_gradients}) {
      device.add_buffer(values->data(), values->size() * sizeof(double));
    }
    for (double* value : {&reduced, &pairs, &one}) device.add_buffer(value, sizeof(double));
    device.add_buffer(status.data(), status.size());
  }

  CamLoss loss_op() {
    CamLoss op{};
    op.in = {
        N,    T, C, P, Q, activations.data(), C * P, false, {gradients.data(), T * C * Q, C * Q},
        false};
    op.regions = {regions.data(), T * P, P};
    op.alpha = alpha.data();
    op.grad_map = grad_map.data();
    op.loss = loss.data();
    op.status = status.data();
    op.params.rows = 3;
    op.params.cols = P / 3;
    return op;
  }

  CamLossForward forward_op() {
    CamLossForward op{};
    op.loss = loss_op();
    op.reduction = Reduction::kSum;
    op.grad_gradients = grad_gradients.data();
    op.reduced = &reduced;
    op.count = &pairs;
    return op;
  }

  // The sum over all pairs.
  double forward() {
    launch_forward<double, kTargetsPerBlock, LossFinish<SquaredFamily<double>, double>>(
        forward_op(), false, site_of(device, 1));
    return reduced;
  }
  void constants() {
    launch_backward<double, kTargetsPerBlock>(sums_of_gradients(forward_op()), site_of(device, 1));
  }

  // Both at once.
  bool one_pass() {
    return launch_pass<double, 4, SquaredFamily<double>>(forward_op(), false, kClusterSharedBytes,
                                                         site_of(device, 1));
  }
  void backward() {
    CamLossBackward op{};
    op.batch = N;
    op.targets = T;
    op.channels = C;
    op.cells = P;
    op.alpha = alpha.data();
    op.grad_map = grad_map.data();
    op.grad_gradients = grad_gradients.data();
    op.status = status.data();
    op.grad = {&one, 0, 0};  // of every pair
    op.grad_activations = grad_activations.data();
    op.scaled_gradients = scaled_gradients.data();
    launch_pass_backward<double, 4>(op, site_of(device, 1));
  }

  double difference(double* value) {
    const double step = 1e-6, kept = *value;
    *value = kept + step;
    const double above = forward();
    *value = kept - step;
    const double below = forward();
    *value = kept;
    return (above - below) / (2 * step);
  }
};

bool near(const char* what, double got, double wanted, double tolerance) {
  if (std::fabs(got - wanted) <= tolerance) return true;
  std::printf("%s: got %.12g, want %.12g\n", what, got, wanted);
  return false;
}

// The loss of a pair with plain loops.
double expected(const Call& call, int64_t n, int64_t t) {
  std::vector<double> map(P);
  double peak = 0;
  for (int64_t p = 0; p < P; ++p) {
    for (int64_t c = 0; c < C; ++c) {
      double alpha = 0;
      for (int64_t q = 0; q < Q; ++q) alpha += call.gradients[((n * T + t) * C + c) * Q + q] / P;
      map[p] += alpha * call.activations[(n * C + c) * P + p];
    }
    peak = std::max(peak, map[p]);
  }
  double sum = 0;
  for (int64_t p = 0; p < P; ++p) {
    const double off = std::max(map[p], 0.0) / peak - call.regions[(n * T + t) * P + p];
    sum += off * off;
  }
  return sum / P;
}

}  // namespace

int main() {
  Call call;
  const double total = call.forward();
  bool good = true;
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t t = 0; t < T; ++t) {
      good = near("loss", call.loss[n * T + t], expected(call, n, t), 1e-12) && good;
    }
  }
  std::vector<double> by_a(N * C * P), by_d(N * T * C);  // of D: the same for each of its cells
  double size = 0;
  for (int64_t i = 0; i < N * C * P; ++i)
    size += std::fabs(by_a[i] = call.difference(&call.activations[i]));
  for (int64_t i = 0; i < N * T * C; ++i)
    size += std::fabs(by_d[i] = call.difference(&call.gradients[i * Q]));
  const auto compare = [&] {
    call.backward();
    for (int64_t i = 0; i < N * C * P; ++i) {
      good = near("grad_activations", call.grad_activations[i], by_a[i], 1e-7) && good;
    }
    for (int64_t i = 0; i < N * T * C; ++i) {
      good = near("grad_gradients", call.scaled_gradients[i], by_d[i], 1e-7) && good;
    }
  };
  call.forward();
  call.constants();
  compare();
  std::fill(call.grad_gradients.begin(), call.grad_gradients.end(), 0.0);
  good = call.one_pass() && good;
  good =
      near("one pass", call.reduced, total, 1e-12) && near("pairs", call.pairs, N * T, 0) && good;
  compare();
  if (size < 0.1) std::puts("no gradient");
  return good && size >= 0.1 ? 0 : 1;
}
