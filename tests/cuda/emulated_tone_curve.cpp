#include "emulated_attend.h"

namespace emulator {

void run_tone_curve(Device& device, int multiprocessors, const fastcam::ToneCurveOp& op,
                    fastcam::ScalarKind kind) {
  fastcam::launch_tone_curve(op, kind, site_of(device, multiprocessors));
}

}  // namespace emulator
