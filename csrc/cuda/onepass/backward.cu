// _cam_loss_backward on CUDA.
#include "cuda/launch.cuh"
// launch.cuh first: it defines the launch
#include "cuda/onepass/launch.cuh"
#include "ops/cam_loss.h"

namespace fastcam {
namespace {

std::tuple<Tensor, Tensor> cam_loss_backward(const Tensor alpha, const Tensor grad_map,
                                             const std::optional<Tensor> grad_gradients,
                                             const Tensor status, const Tensor grad,
                                             const std::optional<Tensor> count, int64_t dtype,
                                             bool channels_last, bool need_activations) {
  return cam_loss_backward_op(
      alpha, grad_map, grad_gradients, status, grad, count, dtype, channels_last, need_activations,
      [&](const CamLossBackward& op, ScalarKind kind) {
        on_device_of(alpha, [&](int multiprocessors, void* stream, auto workspace) {
          launch_cam_loss_backward(op, kind, LaunchSite{multiprocessors, stream, workspace});
        });
      });
}

}  // namespace
}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CUDA, m)
{
  m.impl("_cam_loss_backward", TORCH_BOX(&fastcam::cam_loss_backward));
}
