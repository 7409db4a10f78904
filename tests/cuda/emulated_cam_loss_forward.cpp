#include "emulated_ops.h"

namespace emulator {

void run_cam_loss_pass(Device& device, int multiprocessors, const fastcam::CamLossPass& op,
                       fastcam::ScalarKind a, fastcam::ScalarKind d, int shared_limit) {
  const fastcam::LaunchSite site = site_of(device, multiprocessors);
  if (shared_limit == 0 || !fastcam::launch_cam_loss_pass(op, a, d, shared_limit, site)) {
    fastcam::launch_cam_loss_in_parts(
        op, a,
        [&](const fastcam::CamLossForward& part) {
          run_cam_iou_forward(device, multiprocessors, part, a, d);
        },
        [&](const fastcam::CamBackward& part) {
          run_cam_backward(device, multiprocessors, part, a);
        },
        site);
  }
}

}  // namespace emulator
