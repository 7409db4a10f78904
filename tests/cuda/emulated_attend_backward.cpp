#include "emulated_attend.h"

namespace emulator {

void run_attend_backward(Device& device, int multiprocessors, const fastcam::AttendBackward& op,
                         fastcam::ScalarKind kind) {
  fastcam::launch_attend_backward(op, kind, site_of(device, multiprocessors));
}

}  // namespace emulator
