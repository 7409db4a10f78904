#include "emulated_ops.h"

namespace emulator {

void run_cam_forward(Device& device, int multiprocessors, const fastcam::CamForward& op,
                     fastcam::ScalarKind a, fastcam::ScalarKind d) {
  fastcam::launch_cam_forward(op, a, d, site_of(device, multiprocessors));
}

}  // namespace emulator
