// The raw ops of Grad-CAM: schemas, argument checks and output allocation, the same for every
// device. `launch` is a device's kernel: launch(a tensor of the device, params, storage kinds of
// activations and gradients).
#pragma once

#include <optional>
#include <tuple>

#include "common/params.h"
#include "ops/checks.h"

namespace fastcam {

// A tensor [N,T,...].
inline PairView pairs_of(const Tensor& t) { return {input_data(t), t.stride(0), t.stride(1)}; }

// The inputs of a forward op, held together with what keeps their memory alive.
struct HeldCamInputs {
  Tensor activations;
  Tensor gradients;
  ScalarKind activations_kind;
  ScalarKind gradients_kind;
  ScalarType acc;
  CamInputs in;
};

inline HeldCamInputs hold_cam_inputs(const Tensor& activations, const Tensor& gradients) {
  STD_TORCH_CHECK(activations.dim() == 4, "fastcam: activations must be [N,C,H,W], got ",
                  activations.dim(), " axes");
  STD_TORCH_CHECK(gradients.dim() == 5, "fastcam: gradients must be [N,T,C,H',W'], got ",
                  gradients.dim(), " axes");
  STD_TORCH_CHECK(gradients.size(0) == activations.size(0) &&
                      gradients.size(2) == activations.size(1),
                  "fastcam: gradients do not agree with activations in N or C");
  check_device(gradients, "gradients", activations);
  HeldCamInputs held{
      readable(activations),           readable(gradients), kind_of(activations, "activations"),
      kind_of(gradients, "gradients"), ScalarType::Float,   {}};
  held.acc = acc_type(held.activations_kind);
  STD_TORCH_CHECK(
      held.gradients_kind == held.activations_kind || gradients.scalar_type() == held.acc,
      "fastcam: gradients must have the dtype of the activations or their arithmetic dtype");
  CamInputs& in = held.in;
  in.batch = activations.size(0);
  in.targets = gradients.size(1);
  in.channels = activations.size(1);
  in.cells = activations.size(2) * activations.size(3);
  in.grad_cells = gradients.size(3) * gradients.size(4);
  STD_TORCH_CHECK(in.cells > 0 && in.grad_cells > 0,
                  "fastcam: activations or gradients have no cells");
  STD_TORCH_CHECK(in.cells <= INT32_MAX, "fastcam: a map of more than 2^31 cells");
  in.activations = input_data(held.activations);
  in.activations_stride_n = held.activations.stride(0);
  in.activations_channels_last = !is_channels_first(held.activations);
  in.gradients = pairs_of(held.gradients);
  in.gradients_channels_last = !is_channels_first(held.gradients);
  return held;
}

// cam [N,T,H,W], alpha [N,T,C], peak [N,T].
template <auto launch>
std::tuple<Tensor, Tensor, Tensor> cam_forward(const Tensor activations, const Tensor gradients,
                                               bool normalize) {
  const HeldCamInputs held = hold_cam_inputs(activations, gradients);
  const CamInputs& in = held.in;
  const Tensor cam = empty_on(
      activations, {in.batch, in.targets, activations.size(2), activations.size(3)}, held.acc);
  const Tensor alpha = empty_on(activations, {in.batch, in.targets, in.channels}, held.acc);
  const Tensor peak = empty_on(activations, {in.batch, in.targets}, held.acc);
  if (in.batch > 0 && in.targets > 0) {
    const CamForward op{in, normalize, output_data(alpha), output_data(cam), output_data(peak)};
    launch(activations, op, held.activations_kind, held.gradients_kind);
  }
  return {cam, alpha, peak};
}

// The gradients of grad_cam from its outputs and the upstream gradient of cam, which may lie in
// memory in any way: grad_activations [N,C,H,W] and grad_gradients [N,T,C], each empty unless asked
// for. `launch` gets no kind of the gradients.
template <auto launch>
std::tuple<Tensor, Tensor>
cam_backward(const Tensor activations, const Tensor alpha, const Tensor cam, const Tensor peak,
             const Tensor grad, bool normalize, bool need_activations, bool need_gradients) {
  STD_TORCH_CHECK(activations.dim() == 4 && alpha.dim() == 3 && cam.dim() == 4 && peak.dim() == 2 &&
                      grad.dim() == 4,
                  "fastcam: expected activations [N,C,H,W], alpha [N,T,C], cam [N,T,H,W], peak"
                  " [N,T], grad [N,T,H,W]");
  const Tensor held = readable(activations);
  const ScalarKind kind = kind_of(activations, "activations");
  const ScalarType acc = acc_type(kind);
  const int64_t N = activations.size(0), C = activations.size(1), T = alpha.size(1);
  STD_TORCH_CHECK(alpha.size(0) == N && alpha.size(2) == C && alpha.scalar_type() == acc,
                  "fastcam: alpha must be [N,T,C] in the arithmetic dtype of the activations");
  STD_TORCH_CHECK(peak.size(0) == N && peak.size(1) == T && peak.scalar_type() == acc,
                  "fastcam: peak must be [N,T] in the arithmetic dtype of the activations");
  for (const Tensor* map : {&cam, &grad}) {
    STD_TORCH_CHECK(map->size(0) == N && map->size(1) == T && map->size(2) == activations.size(2) &&
                        map->size(3) == activations.size(3) && map->scalar_type() == acc,
                    "fastcam: cam and grad must be [N,T,H,W] in the arithmetic dtype of the"
                    " activations");
  }
  STD_TORCH_CHECK(activations.size(2) * activations.size(3) > 0,
                  "fastcam: activations have no cells");
  check_device(alpha, "alpha", activations);
  check_device(cam, "cam", activations);
  check_device(peak, "peak", activations);
  check_device(grad, "grad", activations);
  const Tensor alpha_held = as_contiguous(alpha);
  const Tensor cam_held = as_contiguous(cam);
  const Tensor peak_held = as_contiguous(peak);

  const bool channels_last = !is_channels_first(held);
  const Tensor grad_activations =
      empty_if(need_activations, activations, {N, C, activations.size(2), activations.size(3)},
               activations.scalar_type(), channels_last);
  const Tensor grad_gradients = empty_if(need_gradients, activations, {N, T, C}, acc);
  if (T == 0) {  // no launch: there is nothing to sum over
    Tensor zeroed = grad_activations;
    torch::stable::zero_(zeroed);
  } else if (N > 0 && C > 0 && (need_activations || need_gradients)) {
    CamBackward op{};
    op.batch = N;
    op.targets = T;
    op.channels = C;
    op.cells = activations.size(2) * activations.size(3);
    op.activations = input_data(held);
    op.activations_stride_n = held.stride(0);
    op.activations_channels_last = channels_last;
    op.alpha = input_data(alpha_held);
    op.cam = input_data(cam_held);
    op.peak = input_data(peak_held);
    op.grad = pairs_of(grad);
    op.grad_stride_h = grad.stride(2);
    op.grad_stride_w = grad.stride(3);
    op.cols = activations.size(3);
    op.normalize = normalize;
    op.grad_activations = need_activations ? output_data(grad_activations) : nullptr;
    op.grad_gradients = need_gradients ? output_data(grad_gradients) : nullptr;
    launch(activations, op, kind);
  }
  return {grad_activations, grad_gradients};
}

inline void define_cam(Library& m) {
  m.def("_cam_forward(Tensor activations, Tensor gradients, bool normalize)"
        " -> (Tensor cam, Tensor alpha, Tensor peak)");
  m.def("_cam_backward(Tensor activations, Tensor alpha, Tensor cam, Tensor peak, Tensor grad,"
        " bool normalize, bool need_activations, bool need_gradients)"
        " -> (Tensor grad_activations, Tensor grad_gradients)");
}

}  // namespace fastcam
