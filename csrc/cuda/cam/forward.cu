// _cam_forward on CUDA.
#include "cuda/launch.cuh"
// cuda/launch.cuh first: it defines the launch
#include "cuda/cam/launch.cuh"
#include "ops/cam.h"

STABLE_TORCH_LIBRARY_IMPL(fastcam, CUDA, m)
{
  using namespace fastcam;
  m.impl("_cam_forward", TORCH_BOX(&cam_forward<OnDevice<launch_cam_forward<LaunchSite>>{}>));
}
