// _cam_backward on CUDA.
#include "cuda/launch.cuh"
// launch.cuh first: it defines the launch
#include "cuda/cam/launch.cuh"

namespace fastcam {

void launch_cam_backward_on(const Tensor& device_of, const CamBackward& op, ScalarKind a) {
  on_device_of(device_of, [&](int count, void* stream, auto workspace) {
    launch_cam_backward(op, a, LaunchSite{count, stream, workspace});
  });
}

namespace {

std::tuple<Tensor, Tensor> cam_backward(const Tensor activations, const Tensor alpha,
                                        const Tensor grad_map, const std::optional<Tensor> scale,
                                        const std::optional<Tensor> status, bool need_activations,
                                        bool need_gradients) {
  return cam_backward_op(
      activations, alpha, grad_map, scale, status, need_activations, need_gradients,
      [&](const CamBackward& op, ScalarKind a) { launch_cam_backward_on(activations, op, a); });
}

}  // namespace
}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CUDA, m)
{
  m.impl("_cam_backward", TORCH_BOX(&fastcam::cam_backward));
}
