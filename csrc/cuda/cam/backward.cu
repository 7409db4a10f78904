// _cam_backward on CUDA.
#include "cuda/launch.cuh"
// cuda/launch.cuh first: it defines the launch
#include "cuda/cam/launch.cuh"
#include "ops/cam.h"

namespace fastcam {

template void launch_cam_backward(const CamBackward&, ScalarKind, const LaunchSite&);

}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CUDA, m)
{
  using namespace fastcam;
  m.impl("_cam_backward", TORCH_BOX(&cam_backward<OnDevice<launch_cam_backward<LaunchSite>>{}>));
}
