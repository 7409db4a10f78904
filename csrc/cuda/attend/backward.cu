// _attend_backward on CUDA.
#include "cuda/launch.cuh"
// cuda/launch.cuh first: it defines the launch
#include "cuda/attend/launch.cuh"
#include "ops/attend.h"

STABLE_TORCH_LIBRARY_IMPL(fastcam, CUDA, m)
{
  using namespace fastcam;
  m.impl("_attend_backward",
         TORCH_BOX(&attend_backward<OnDevice<launch_attend_backward<LaunchSite>>{}>));
}
