// _cam_backward on CUDA.
#include "cuda/launch.cuh"
// cuda/launch.cuh first: it defines the launch
#include "cuda/cam/launch.cuh"
#include "ops/cam.h"

namespace fastcam {

void launch_cam_backward_on(const Tensor& device, const CamBackward& op, ScalarKind a) {
  on_device_of(device, [&](const LaunchSite& site) { launch_cam_backward(op, a, site); });
}

}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CUDA, m)
{
  using namespace fastcam;
  m.impl("_cam_backward", TORCH_BOX(&cam_backward<launch_cam_backward_on>));
}
