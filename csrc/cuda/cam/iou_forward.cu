// _cam_iou_forward on CUDA.
#include "cuda/launch.cuh"
// cuda/launch.cuh first: it defines the launch
#include "cuda/cam/launch.cuh"
#include "ops/cam_loss.h"

namespace fastcam {

void launch_cam_iou_forward_on(const Tensor& device, const CamLossForward& op, ScalarKind a,
                               ScalarKind d) {
  on_device_of(device, [&](const LaunchSite& site) { launch_cam_iou_forward(op, a, d, site); });
}

}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CUDA, m)
{
  using namespace fastcam;
  m.impl("_cam_iou_forward", TORCH_BOX(&cam_iou_forward<launch_cam_iou_forward_on>));
}
