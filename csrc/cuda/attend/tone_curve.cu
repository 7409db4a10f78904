// _tone_curve and its backward on CUDA.
#include "cuda/launch.cuh"
// cuda/launch.cuh first: it defines the launch
#include "cuda/attend/launch.cuh"
#include "ops/attend.h"

namespace fastcam {

void launch_tone_curve_on(const Tensor& device, const ToneCurveOp& op, ScalarKind kind) {
  on_device_of(device, [&](const LaunchSite& site) { launch_tone_curve(op, kind, site); });
}

}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CUDA, m)
{
  using namespace fastcam;
  m.impl("_tone_curve", TORCH_BOX(&tone_curve<launch_tone_curve_on>));
  m.impl("_tone_curve_backward", TORCH_BOX(&tone_curve_backward<launch_tone_curve_on>));
}
