// The Grad-CAM ops as the emulator runs them.
#pragma once

#include "emulated_launch.h"
// the launchers after it
#include "cuda/cam/launch.cuh"
#include "cuda/onepass/launch.cuh"

namespace emulator {

// Each in a file of its own: they take long to compile.
void run_cam_forward(Device&, int multiprocessors, const fastcam::CamForward&,
                     fastcam::ScalarKind a, fastcam::ScalarKind d);
void run_cam_iou_forward(Device&, int multiprocessors, const fastcam::CamLossForward&,
                         fastcam::ScalarKind a, fastcam::ScalarKind d);
void run_cam_backward(Device&, int multiprocessors, const fastcam::CamBackward&,
                      fastcam::ScalarKind a);

// `shared_limit` 0: in several launches, as on a GPU without clusters.
void run_cam_loss_pass(Device&, int multiprocessors, const fastcam::CamLossPass&,
                       fastcam::ScalarKind a, fastcam::ScalarKind d, int shared_limit);
void run_cam_loss_backward(Device&, int multiprocessors, const fastcam::CamLossBackward&,
                           fastcam::ScalarKind a);

}  // namespace emulator
