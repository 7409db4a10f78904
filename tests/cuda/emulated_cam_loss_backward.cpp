#include "emulated_ops.h"

namespace emulator {

void run_cam_loss_backward(Device& device, int multiprocessors, const fastcam::CamLossBackward& op,
                           fastcam::ScalarKind a) {
  fastcam::launch_cam_loss_backward(op, a, site_of(device, multiprocessors));
}

}  // namespace emulator
