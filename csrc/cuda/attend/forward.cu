// _attend_forward on CUDA.
#include "cuda/launch.cuh"
// cuda/launch.cuh first: it defines the launch
#include "cuda/attend/launch.cuh"
#include "ops/attend.h"

namespace fastcam {

void launch_attend_forward_on(const Tensor& device, const AttendForward& op, ScalarKind kind) {
  on_device_of(device, [&](const LaunchSite& site) { launch_attend_forward(op, kind, site); });
}

}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CUDA, m)
{
  using namespace fastcam;
  m.impl("_attend_forward", TORCH_BOX(&attend_forward<launch_attend_forward_on>));
}
