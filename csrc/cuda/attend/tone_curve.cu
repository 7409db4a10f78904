// _tone_curve and its backward on CUDA.
#include "cuda/launch.cuh"
// launch.cuh first: it defines the launch
#include "cuda/attend/launch.cuh"
#include "ops/attend.h"

namespace fastcam {
namespace {

auto launch_on_device_of(const Tensor& mask) {
  return [&mask](const ToneCurveOp& op, ScalarKind kind) {
    on_device_of(mask, [&](int count, void* stream, auto workspace) {
      launch_tone_curve(op, kind, LaunchSite{count, stream, workspace});
    });
  };
}

Tensor tone_curve(const Tensor mask, double n, double beta) {
  return tone_curve_op(mask, nullptr, n, beta, launch_on_device_of(mask));
}

Tensor tone_curve_backward(const Tensor mask, const Tensor grad, double n, double beta) {
  return tone_curve_op(mask, &grad, n, beta, launch_on_device_of(mask));
}

}  // namespace
}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CUDA, m)
{
  m.impl("_tone_curve", TORCH_BOX(&fastcam::tone_curve));
  m.impl("_tone_curve_backward", TORCH_BOX(&fastcam::tone_curve_backward));
}
