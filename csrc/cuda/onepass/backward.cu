// _cam_loss_backward on CUDA.
#include "cuda/launch.cuh"
// cuda/launch.cuh first: it defines the launch
#include "cuda/onepass/launch.cuh"
#include "ops/cam_loss.h"

namespace fastcam {

void launch_cam_loss_backward_on(const Tensor& device, const CamLossBackward& op, ScalarKind kind) {
  on_device_of(device, [&](const LaunchSite& site) { launch_cam_loss_backward(op, kind, site); });
}

}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CUDA, m)
{
  using namespace fastcam;
  m.impl("_cam_loss_backward", TORCH_BOX(&cam_loss_backward<launch_cam_loss_backward_on>));
}
