#include "emulated_attend.h"

namespace emulator {

void run_attend_forward(Device& device, int multiprocessors, const fastcam::AttendForward& op,
                        fastcam::ScalarKind kind) {
  fastcam::launch_attend_forward(op, kind, site_of(device, multiprocessors));
}

}  // namespace emulator
