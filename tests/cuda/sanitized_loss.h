// A loss of the map for the programs under sanitizers: its tensors, and what is expected of it,
// with plain loops in double.
#pragma once

#include <random>
#include <vector>

#include "common/losses.h"
#include "sanitized_memory.h"

namespace emulator {

struct LossCase {
  const char* name;
  int64_t batch, targets, channels, cells, grad_cells;
  bool channels_last;
  int64_t offset = 0;  // of A and D in their storage: no vector is aligned with the data
  fastcam::LossKind kind = fastcam::LossKind::kIoUTone;
  int shared_limit = int(kClusterSharedBytes);  // small: several blocks share a sample
};

inline constexpr fastcam::LossParams kSanitizedParams{{0.5, 2.0, 1e-6}, 0, 0};

// The tensors of a case, with random inputs; every cell weighs 1.
template <class S>
struct LossTensors {
  LossCase c;
  int64_t N = c.batch, T = c.targets, C = c.channels, P = c.cells, Q = c.grad_cells;
  Array<S> activations, gradients, grad_activations;
  Array<float> regions, loss, alpha, grad_map, grad_gradients, reduced, count;
  Array<uint8_t> status;

  LossTensors(Device* device, const LossCase& case_)
      : c(case_), activations(device, N * C * P, c.offset),
        gradients(device, N * T * C * Q, c.offset), grad_activations(device, N * C * P),
        regions(device, N * T * P), loss(device, N * T), alpha(device, N * T * C),
        grad_map(device, N * T * P), grad_gradients(device, N * T * C), reduced(device, 1),
        count(device, 1), status(device, N * T) {
    std::mt19937 random(1);
    std::uniform_real_distribution<float> uniform(0.0f, 1.0f);
    for (int64_t i = 0; i < N * C * P; ++i) {
      activations[i] = fastcam::from_acc<S>(uniform(random));
    }
    for (int64_t i = 0; i < N * T * C * Q; ++i) {
      gradients[i] = fastcam::from_acc<S>(uniform(random) - 0.4f);
    }
    for (int64_t i = 0; i < N * T * P; ++i) regions[i] = uniform(random);
  }

  fastcam::CamLossForward op(fastcam::Reduction reduction) {
    fastcam::CamLossForward op{};
    fastcam::CamLoss& loss_op = op.loss;
    loss_op.in = {N,
                  T,
                  C,
                  P,
                  Q,
                  activations.data(),
                  C * P,
                  c.channels_last,
                  {gradients.data(), T * C * Q, C * Q},
                  c.channels_last};
    loss_op.regions = {regions.data(), T * P, P};
    loss_op.kind = c.kind;
    loss_op.params = kSanitizedParams;
    loss_op.params.cols = int32_t(P);
    loss_op.alpha = alpha.data();
    loss_op.grad_map = grad_map.data();
    loss_op.loss = loss.data();
    loss_op.status = status.data();
    op.reduction = reduction;
    op.grad_gradients = grad_gradients.data();
    op.reduced = reduced.data();
    op.count = count.data();
    return op;
  }

  // Where the cell p of a channel is in A, or in a tensor like it.
  int64_t at(int64_t n, int64_t channel, int64_t p) const {
    return n * C * P + (c.channels_last ? p * C + channel : channel * P + p);
  }
  double a(int64_t n, int64_t channel, int64_t p) {
    return double(fastcam::to_acc(activations[at(n, channel, p)]));
  }
  double expected_alpha(int64_t pair, int64_t channel) {
    double sum = 0;
    for (int64_t q = 0; q < Q; ++q) {
      const int64_t i = pair * C * Q + (c.channels_last ? q * C + channel : channel * Q + q);
      sum += double(fastcam::to_acc(gradients[i])) / double(P);
    }
    return sum;
  }
  // Of gradients g [N, T, P] of the maps: sum_p g A / P, and sum_t g alpha.
  template <class G>
  double expected_sum(G& g, int64_t pair, int64_t channel) {
    double sum = 0;
    for (int64_t p = 0; p < P; ++p) {
      sum += double(g[size_t(pair * P + p)]) * a(pair / T, channel, p) / double(P);
    }
    return sum;
  }
  template <class G>
  double expected_product(G& g, int64_t n, int64_t channel, int64_t p) {
    double sum = 0;
    for (int64_t pair = n * T; pair < (n + 1) * T; ++pair) {
      sum += double(g[size_t(pair * P + p)]) * double(alpha[pair * C + channel]);
    }
    return sum;
  }
  // After the ReLU.
  std::vector<double> expected_map(int64_t n, int64_t t) {
    std::vector<double> map(size_t(P), 0.0);
    for (int64_t channel = 0; channel < C; ++channel) {
      const double weight = expected_alpha(n * T + t, channel);
      for (int64_t p = 0; p < P; ++p) map[size_t(p)] += weight * a(n, channel, p);
    }
    for (double& r : map) r = r > 0 ? r : 0;
    return map;
  }
  double expected_loss(int64_t pair, const std::vector<double>& map, double peak) {
    double result = 0;
    fastcam::visit_loss<double>(c.kind, kSanitizedParams, [&](const auto& loss) {
      constexpr int kSums = std::decay_t<decltype(loss)>::kSums;
      double sum[kSums] = {}, derivative[kSums];
      for (int64_t p = 0; p < P; ++p) {
        const double x = map[size_t(p)] / (peak == 0 ? 1 : peak);
        fastcam::add_terms(loss, {x, regions[pair * P + p], 1.0, 0, 0}, sum);
      }
      result = loss.combine(sum, derivative);
    });
    return result;
  }
};

}  // namespace emulator
