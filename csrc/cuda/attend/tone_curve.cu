// _tone_curve and its backward on CUDA.
#include "cuda/launch.cuh"
// cuda/launch.cuh first: it defines the launch
#include "cuda/attend/launch.cuh"
#include "ops/attend.h"

STABLE_TORCH_LIBRARY_IMPL(fastcam, CUDA, m)
{
  using namespace fastcam;
  m.impl("_tone_curve", TORCH_BOX(&tone_curve<OnDevice<launch_tone_curve<LaunchSite>>{}>));
  m.impl("_tone_curve_backward",
         TORCH_BOX(&tone_curve_backward<OnDevice<launch_tone_curve<LaunchSite>>{}>));
}
