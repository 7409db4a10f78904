// The forward of a loss of the map on CUDA, without dD's constants: a launch of _cam_loss_forward.
#include "cuda/launch.cuh"
// cuda/launch.cuh first: it defines the launch
#include "cuda/cam/launch.cuh"

namespace fastcam {

void launch_cam_loss_values_on(const Tensor& device, const CamLossForward& op, ScalarKind a,
                               ScalarKind d) {
  on_device_of(device, [&](const LaunchSite& site) { launch_cam_loss_values(op, a, d, site); });
}

}  // namespace fastcam
