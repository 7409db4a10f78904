// The raw ops of the losses of the map, as ops/cam.h: the value with all its gradients, and a
// backward that only writes.
#pragma once

#include <algorithm>

#include "common/losses.h"
#include "ops/cam.h"

namespace fastcam {

// A per-cell argument [N,T,H,W] in the arithmetic dtype; its outer strides may be 0.
inline Tensor hold_cells(const Tensor& t, const char* name, const Tensor& activations,
                         const CamInputs& in, ScalarType acc) {
  STD_TORCH_CHECK(t.dim() == 4 && t.size(0) == in.batch && t.size(1) == in.targets &&
                      t.size(2) == activations.size(2) && t.size(3) == activations.size(3),
                  "fastcam: ", name, " must be [N,T,H,W]");
  STD_TORCH_CHECK(t.scalar_type() == acc, "fastcam: ", name,
                  " must have the arithmetic dtype of the call");
  check_device(t, name, activations);
  return with_contiguous_cells(t);
}

// What the forward of a loss of the map is called with and gives: tensors, and the parameters that
// point to them.
struct HeldLoss {
  HeldCamInputs maps;
  Tensor regions;
  std::optional<Tensor> cell_weights;
  Tensor loss;      // [N,T]
  Tensor alpha;     // [N,T,C]
  Tensor grad_map;  // [N,T,H,W]
  Tensor status;    // [N,T]
  CamLoss op;
};

inline HeldLoss hold_loss(const Tensor& activations, const Tensor& gradients, const Tensor& regions,
                          const std::optional<Tensor>& cell_weights,
                          const std::optional<Tensor>& where, int64_t loss,
                          const std::vector<double>& params, double max_pull) {
  STD_TORCH_CHECK(loss >= 0 && loss < kLossKinds, "fastcam: there is no loss of kind ", loss);
  STD_TORCH_CHECK(int64_t(params.size()) <= kMaxLossParams, "fastcam: too many parameters");
  const HeldCamInputs maps = hold_cam_inputs(activations, gradients);
  const int64_t N = maps.in.batch, T = maps.in.targets;
  const int64_t H = activations.size(2), W = activations.size(3);
  HeldLoss held{maps,
                hold_cells(regions, "regions", activations, maps.in, maps.acc),
                std::nullopt,
                empty_on(activations, {N, T}, maps.acc),
                empty_on(activations, {N, T, maps.in.channels}, maps.acc),
                empty_on(activations, {N, T, H, W}, maps.acc),
                empty_on(activations, {N, T}, ScalarType::Byte),
                {}};
  CamLoss& op = held.op;
  op.in = maps.in;
  op.kind = LossKind(loss);
  std::copy(params.begin(), params.end(), op.params.value);
  op.params.rows = int32_t(H);
  op.params.cols = int32_t(W);
  op.max_pull = max_pull;
  op.regions = pairs_of(held.regions);
  if (cell_weights.has_value()) {
    held.cell_weights = hold_cells(*cell_weights, "cell_weights", activations, maps.in, maps.acc);
    op.cell_weights = pairs_of(*held.cell_weights);
  }
  if (where.has_value()) {
    STD_TORCH_CHECK(where->dim() == 2 && where->size(0) == maps.in.batch &&
                        where->size(1) == maps.in.targets &&
                        where->scalar_type() == ScalarType::Bool,
                    "fastcam: where must be bool [N,T]");
    check_device(*where, "where", activations);
    op.where = pairs_of(*where);
  }
  op.loss = output_data(held.loss);
  op.alpha = output_data(held.alpha);
  op.grad_map = output_data(held.grad_map);
  op.status = static_cast<uint8_t*>(output_data(held.status));
  return held;
}

// loss [N,T], status [N,T], reduced [] and count [] (empty without a reduction), alpha [N,T,C],
// grad_map [N,T,H,W], grad_gradients [N,T,C] (empty unless asked for).
using LossOutputs = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

template <auto launch>
LossOutputs cam_loss_forward(const Tensor activations, const Tensor gradients, const Tensor regions,
                             const std::optional<Tensor> cell_weights,
                             const std::optional<Tensor> where, int64_t loss,
                             const std::vector<double> params, double max_pull, int64_t reduction,
                             bool need_gradients) {
  STD_TORCH_CHECK(reduction >= 0 && reduction <= 2, "fastcam: reduction must be 0, 1 or 2");
  const HeldLoss held =
      hold_loss(activations, gradients, regions, cell_weights, where, loss, params, max_pull);
  const CamInputs& in = held.maps.in;
  const int64_t N = in.batch, T = in.targets, C = in.channels;

  const auto one = [&] { return empty_if(reduction != 0, activations, {}, held.maps.acc); };
  Tensor reduced = one();
  Tensor count = one();
  const Tensor grad_gradients = empty_if(need_gradients, activations, {N, T, C}, held.maps.acc);
  if (N == 0 || T == 0) {
    torch::stable::zero_(reduced);
    torch::stable::zero_(count);
  } else {
    const CamLossForward op{held.op, Reduction(reduction),
                            need_gradients ? output_data(grad_gradients) : nullptr,
                            output_data(reduced), output_data(count)};
    launch(activations, op, held.maps.activations_kind, held.maps.gradients_kind);
  }
  return {held.loss, held.status, reduced, count, held.alpha, held.grad_map, grad_gradients};
}

// dA [N,C,H,W] in the given dtype and layout, and dD's constants [N,T,C] times the upstream
// gradient: each empty unless asked for.
template <auto launch>
std::tuple<Tensor, Tensor> cam_loss_backward(const Tensor alpha, const Tensor grad_map,
                                             const std::optional<Tensor> grad_gradients,
                                             const Tensor status, const Tensor grad,
                                             const std::optional<Tensor> count, int64_t dtype,
                                             bool channels_last, bool need_activations) {
  STD_TORCH_CHECK(alpha.dim() == 3 && grad_map.dim() == 4,
                  "fastcam: expected alpha [N,T,C], grad_map [N,T,H,W]");
  STD_TORCH_CHECK(dtype >= 0 && dtype < kScalarKinds, "fastcam: there is no dtype of kind ", dtype);
  const int64_t N = alpha.size(0), T = alpha.size(1), C = alpha.size(2);
  const int64_t H = grad_map.size(2), W = grad_map.size(3);
  const auto kind = ScalarKind(dtype);
  const ScalarType acc = acc_type(kind);
  const auto agrees = [&](const Tensor& t) {
    return t.size(0) == N && t.size(1) == T && t.scalar_type() == acc;
  };
  STD_TORCH_CHECK(agrees(alpha) && agrees(grad_map),
                  "fastcam: alpha and grad_map must agree and have the arithmetic dtype");
  STD_TORCH_CHECK(status.dim() == 2 && status.size(0) == N && status.size(1) == T &&
                      status.scalar_type() == ScalarType::Byte,
                  "fastcam: status must be uint8 [N,T]");
  STD_TORCH_CHECK(grad.dim() == 2 && agrees(grad),
                  "fastcam: grad must be [N,T] in the arithmetic dtype");
  STD_TORCH_CHECK(!count.has_value() || (count->numel() == 1 && count->scalar_type() == acc),
                  "fastcam: count must be one value in the arithmetic dtype");
  STD_TORCH_CHECK(
      !grad_gradients.has_value() ||
          (grad_gradients->dim() == 3 && agrees(*grad_gradients) && grad_gradients->size(2) == C),
      "fastcam: grad_gradients must be [N,T,C] in the arithmetic dtype");
  check_device(grad_map, "grad_map", alpha);
  check_device(status, "status", alpha);
  check_device(grad, "grad", alpha);
  if (count.has_value()) check_device(*count, "count", alpha);
  if (grad_gradients.has_value()) check_device(*grad_gradients, "grad_gradients", alpha);
  STD_TORCH_CHECK(H * W > 0, "fastcam: grad_map has no cells");
  const Tensor alpha_held = as_contiguous(alpha);
  const Tensor grad_map_held = as_contiguous(grad_map);
  const Tensor status_held = as_contiguous(status);
  std::optional<Tensor> constants;
  if (grad_gradients.has_value()) constants = as_contiguous(*grad_gradients);

  Tensor grad_activations =
      empty_if(need_activations, alpha, {N, C, H, W}, scalar_type_of(kind), channels_last);
  const Tensor scaled = empty_if(constants.has_value(), alpha, {N, T, C}, acc);
  if (T == 0 && need_activations) {
    torch::stable::zero_(grad_activations);
  } else if (N > 0 && T > 0 && C > 0 && (need_activations || constants.has_value())) {
    CamLossBackward op{};
    op.batch = N;
    op.targets = T;
    op.channels = C;
    op.cells = H * W;
    op.channels_last = channels_last;
    op.alpha = input_data(alpha_held);
    op.grad_map = input_data(grad_map_held);
    op.grad_gradients = constants.has_value() ? input_data(*constants) : nullptr;
    op.status = static_cast<const uint8_t*>(input_data(status_held));
    op.grad = pairs_of(grad);
    op.count = count.has_value() ? input_data(*count) : nullptr;
    op.grad_activations = need_activations ? output_data(grad_activations) : nullptr;
    op.scaled_gradients = constants.has_value() ? output_data(scaled) : nullptr;
    launch(alpha, op, kind);
  }
  return {grad_activations, scaled};
}

inline void define_cam_loss(Library& m) {
  m.def("_cam_loss_forward(Tensor activations, Tensor gradients, Tensor regions,"
        " Tensor? cell_weights, Tensor? where, int loss, float[] params, float max_pull,"
        " int reduction, bool need_gradients)"
        " -> (Tensor loss, Tensor status, Tensor reduced, Tensor count, Tensor alpha,"
        " Tensor grad_map, Tensor grad_gradients)");
  m.def("_cam_loss_backward(Tensor alpha, Tensor grad_map, Tensor? grad_gradients, Tensor status,"
        " Tensor grad, Tensor? count, int dtype, bool channels_last, bool need_activations)"
        " -> (Tensor grad_activations, Tensor scaled_gradients)");
}

}  // namespace fastcam
