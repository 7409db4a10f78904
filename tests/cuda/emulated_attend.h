// The tone curve and attend as the emulator runs them.
#pragma once

#include "emulated_launch.h"
// the launchers after it
#include "cuda/attend/launch.cuh"

namespace emulator {

// Each in a file of its own: they take long to compile.
void run_tone_curve(Device&, int multiprocessors, const fastcam::ToneCurveOp&, fastcam::ScalarKind);
void run_attend_forward(Device&, int multiprocessors, const fastcam::AttendForward&,
                        fastcam::ScalarKind);
void run_attend_backward(Device&, int multiprocessors, const fastcam::AttendBackward&,
                         fastcam::ScalarKind);

}  // namespace emulator
