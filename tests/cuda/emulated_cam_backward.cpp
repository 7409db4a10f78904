#include "emulated_ops.h"

namespace emulator {

void run_cam_backward(Device& device, int multiprocessors, const fastcam::CamBackward& op,
                      fastcam::ScalarKind a) {
  fastcam::launch_cam_backward(op, a, site_of(device, multiprocessors));
}

}  // namespace emulator
