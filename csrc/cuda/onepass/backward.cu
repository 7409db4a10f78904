// _cam_loss_backward on CUDA.
#include "cuda/launch.cuh"
// cuda/launch.cuh first: it defines the launch
#include "cuda/onepass/launch.cuh"
#include "ops/cam_loss.h"

STABLE_TORCH_LIBRARY_IMPL(fastcam, CUDA, m)
{
  using namespace fastcam;
  m.impl("_cam_loss_backward",
         TORCH_BOX(&cam_loss_backward<OnDevice<launch_cam_loss_backward<LaunchSite>>{}>));
}
