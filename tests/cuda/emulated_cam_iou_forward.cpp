#include "emulated_ops.h"

namespace emulator {

void run_cam_iou_forward(Device& device, int multiprocessors, const fastcam::CamLossForward& op,
                         fastcam::ScalarKind a, fastcam::ScalarKind d) {
  fastcam::launch_cam_iou_forward(op, a, d, site_of(device, multiprocessors));
}

}  // namespace emulator
