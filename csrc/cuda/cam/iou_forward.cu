// _cam_iou_forward on CUDA.
#include "cuda/launch.cuh"
// launch.cuh first: it defines the launch
#include "cuda/cam/launch.cuh"

namespace fastcam {

void launch_cam_iou_forward_on(const Tensor& device_of, const CamLossForward& op, ScalarKind a,
                               ScalarKind d) {
  on_device_of(device_of, [&](int count, void* stream, auto workspace) {
    launch_cam_iou_forward(op, a, d, LaunchSite{count, stream, workspace});
  });
}

namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor>
cam_iou_forward(const Tensor activations, const Tensor gradients, const Tensor regions,
                const std::optional<Tensor> cell_weights, const std::optional<Tensor> where,
                double threshold, double sharpness, int64_t binarize, double eps, double max_pull) {
  return cam_iou_forward_op(activations, gradients, regions, cell_weights, where, threshold,
                            sharpness, binarize, eps, max_pull,
                            [&](const CamLossForward& op, ScalarKind a, ScalarKind d) {
                              launch_cam_iou_forward_on(activations, op, a, d);
                            });
}

}  // namespace
}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CUDA, m)
{
  m.impl("_cam_iou_forward", TORCH_BOX(&fastcam::cam_iou_forward));
}
