// The forward of a loss of the map on CUDA, without dD's constants: a launch of _cam_loss_forward.
#include "cuda/launch.cuh"
// cuda/launch.cuh first: it defines the launch
#include "cuda/cam/launch.cuh"

namespace fastcam {

template void launch_cam_loss_values(const CamLossForward&, ScalarKind, ScalarKind,
                                     const LaunchSite&);

}  // namespace fastcam
