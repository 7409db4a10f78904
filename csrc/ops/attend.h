// The raw ops of the tone curve and of attend, as ops/cam.h. `launch` is a device's kernel:
// launch(a tensor of the device, params, storage kind).
#pragma once

#include <optional>
#include <tuple>
#include <vector>

#include "common/params.h"
#include "ops/checks.h"

namespace fastcam {

inline std::vector<ToneCurve> curves_of(const std::vector<double>& n,
                                        const std::vector<double>& beta) {
  STD_TORCH_CHECK(!n.empty() && n.size() == beta.size(),
                  "fastcam: n and beta must have the same length, at least 1");
  std::vector<ToneCurve> curves;
  for (size_t j = 0; j < n.size(); ++j) curves.push_back({n[j], beta[j]});
  return curves;
}

inline std::vector<int64_t> sizes_of(const Tensor& t) {
  return std::vector<int64_t>(t.sizes().begin(), t.sizes().end());
}

template <auto launch>
Tensor tone_curve_of(const Tensor& mask, const Tensor* grad, double n, double beta) {
  const Tensor held = as_contiguous(mask);
  const ScalarKind kind = kind_of(held, "mask");
  Tensor grad_held = held;
  if (grad != nullptr) {
    STD_TORCH_CHECK(grad->numel() == mask.numel() && grad->scalar_type() == mask.scalar_type(),
                    "fastcam: grad does not agree with mask");
    check_device(*grad, "grad", mask);
    grad_held = as_contiguous(*grad);
  }
  const Tensor out = empty_on(mask, sizes_of(mask), mask.scalar_type());
  if (mask.numel() > 0) {
    const ToneCurveOp op{mask.numel(),
                         {n, beta},
                         input_data(held),
                         grad != nullptr ? input_data(grad_held) : nullptr,
                         output_data(out)};
    launch(mask, op, kind);
  }
  return out;
}

// g of a mask, in the mask's shape and dtype.
template <auto launch>
Tensor tone_curve(const Tensor mask, double n, double beta) {
  return tone_curve_of<launch>(mask, nullptr, n, beta);
}
template <auto launch>
Tensor tone_curve_backward(const Tensor mask, const Tensor grad, double n, double beta) {
  return tone_curve_of<launch>(mask, &grad, n, beta);
}

inline AttendShape attend_shape(const Tensor& features, const Tensor& logits) {
  STD_TORCH_CHECK(features.dim() == 4 && logits.dim() == 5,
                  "fastcam: expected features [N,C,H,W] and logits [N,K,C,H,W]");
  STD_TORCH_CHECK(logits.size(0) == features.size(0) && logits.size(2) == features.size(1) &&
                      logits.size(3) == features.size(2) && logits.size(4) == features.size(3),
                  "fastcam: logits do not agree with features");
  STD_TORCH_CHECK(logits.scalar_type() == features.scalar_type(),
                  "fastcam: features and logits must share their dtype");
  check_device(logits, "logits", features);
  const AttendShape shape{features.size(0), logits.size(1), features.size(1),
                          features.size(2) * features.size(3)};
  STD_TORCH_CHECK(shape.cells > 0, "fastcam: features have no cells");
  return shape;
}

inline RowStrides strides_of(const Tensor& logits) {
  return {logits.stride(0), logits.stride(1), logits.stride(2)};
}
// As `logits`, contiguous, or with N inside K and C where the logits have it there.
inline Tensor empty_like_logits(const Tensor& logits) {
  std::vector<int64_t> sizes = sizes_of(logits);
  if (!is_dense(logits, {-1, -2, -5, -3, -4})) {
    return empty_on(logits, sizes, logits.scalar_type());
  }
  const Tensor made =
      empty_on(logits, {sizes[1], sizes[2], sizes[0], sizes[3], sizes[4]}, logits.scalar_type());
  return torch::stable::transpose(torch::stable::transpose(made, 1, 2), 0, 1);
}

// out [J,N,K,C,H,W], pooled [J,N,K,C], and mask_sum [N,K].
template <auto launch>
std::tuple<Tensor, Tensor> attend_forward(const Tensor features, const Tensor logits,
                                          const std::vector<double> n,
                                          const std::vector<double> beta, bool pool) {
  const AttendShape shape = attend_shape(features, logits);
  const ScalarKind kind = kind_of(features, "features");
  const std::vector<ToneCurve> curves = curves_of(n, beta);
  const Tensor f = as_contiguous(features);
  const Tensor l = with_contiguous_cells(logits);
  std::vector<int64_t> sizes{int64_t(curves.size()), shape.batch, shape.attributes, shape.channels};
  if (!pool) {
    sizes.push_back(features.size(2));
    sizes.push_back(features.size(3));
  }
  const Tensor out = empty_on(features, sizes, features.scalar_type());
  Tensor mask_sum = empty_on(features, {shape.batch, shape.attributes}, acc_type(kind));
  if (logits.numel() == 0) torch::stable::zero_(mask_sum);
  if (logits.numel() > 0) {
    const AttendForward op{
        shape,         pool,          int64_t(curves.size()), curves.data(),        input_data(f),
        input_data(l), strides_of(l), output_data(out),       output_data(mask_sum)};
    launch(features, op, kind);
  }
  return {out, mask_sum};
}

// grad_features [N,C,H,W], grad_logits [N,K,C,H,W]: each empty unless asked for.
template <auto launch>
std::tuple<Tensor, Tensor>
attend_backward(const Tensor features, const Tensor logits, const Tensor grad_out,
                const std::optional<Tensor> grad_mask_sum, double n, double beta, bool pool,
                bool need_features, bool need_logits) {
  const AttendShape shape = attend_shape(features, logits);
  const ScalarKind kind = kind_of(features, "features");
  const Tensor f = as_contiguous(features);
  const Tensor l = with_contiguous_cells(logits);
  check_device(grad_out, "grad_out", features);
  const Tensor g = as_contiguous(grad_out);
  STD_TORCH_CHECK(g.scalar_type() == features.scalar_type() &&
                      g.numel() == (pool ? logits.numel() / shape.cells : logits.numel()),
                  "fastcam: grad_out does not agree with the output of attend");
  std::optional<Tensor> sums;
  if (grad_mask_sum.has_value()) {
    STD_TORCH_CHECK(grad_mask_sum->numel() == shape.batch * shape.attributes &&
                        grad_mask_sum->scalar_type() == acc_type(kind),
                    "fastcam: grad_mask_sum must be [N,K] in the arithmetic dtype");
    check_device(*grad_mask_sum, "grad_mask_sum", features);
    sums = as_contiguous(*grad_mask_sum);
  }
  const Tensor grad_features =
      empty_if(need_features, features, sizes_of(features), features.scalar_type());
  const Tensor grad_logits =
      need_logits ? empty_like_logits(l) : empty_on(features, {0}, features.scalar_type());
  if (features.numel() > 0 && (need_features || need_logits)) {
    const AttendBackward op{shape,
                            pool,
                            {n, beta},
                            input_data(f),
                            input_data(l),
                            strides_of(l),
                            input_data(g),
                            sums.has_value() ? input_data(*sums) : nullptr,
                            need_features ? output_data(grad_features) : nullptr,
                            need_logits ? output_data(grad_logits) : nullptr,
                            need_logits ? strides_of(grad_logits) : RowStrides{}};
    launch(features, op, kind);
  }
  return {grad_features, grad_logits};
}

inline void define_attend(Library& m) {
  m.def("_tone_curve(Tensor mask, float n, float beta) -> Tensor");
  m.def("_tone_curve_backward(Tensor mask, Tensor grad, float n, float beta) -> Tensor");
  m.def("_attend_forward(Tensor features, Tensor logits, float[] n, float[] beta, bool pool)"
        " -> (Tensor out, Tensor mask_sum)");
  m.def("_attend_backward(Tensor features, Tensor logits, Tensor grad_out, Tensor? grad_mask_sum,"
        " float n, float beta, bool pool, bool need_features, bool need_logits)"
        " -> (Tensor grad_features, Tensor grad_logits)");
}

}  // namespace fastcam
