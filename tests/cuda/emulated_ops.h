// The ops as the emulator runs them: the launchers of csrc/cuda/cam_launch.cuh, and what a launch
// is here.
#pragma once

#include "emulator.h"

#define FASTCAM_LAUNCH(kernel, blocks, threads, shared_bytes, stream, ...)       \
  ::emulator::launch(*static_cast<::emulator::Device*>(stream), blocks, threads, \
                     size_t(shared_bytes), [&] { kernel(__VA_ARGS__); })
#define FASTCAM_CLEAR(pointer, bytes, stream) std::memset(pointer, 0, size_t(bytes))

#include "../../csrc/cuda/cam_launch.cuh"

namespace emulator {

// Device memory for one launch, full of NaN.
class Workspace {
public:
  explicit Workspace(Device* device) : device_(device) {}
  void* operator()(int64_t bytes) const {
    memory_.reset(static_cast<char*>(std::aligned_alloc(256, size_t((bytes + 255) / 256 * 256))),
                  [](char* p) { std::free(p); });
    std::memset(memory_.get(), 0xff, size_t(bytes));
    device_->add_buffer(memory_.get(), size_t(bytes));
    return memory_.get();
  }

private:
  Device* device_;
  mutable std::shared_ptr<char> memory_;
};

inline fastcam::LaunchSite<Workspace> site_of(Device& device, int multiprocessors) {
  return {multiprocessors, &device, Workspace(&device)};
}

// Each in a file of its own: they take long to compile.
void run_cam_forward(Device&, int multiprocessors, const fastcam::CamForward&,
                     fastcam::ScalarKind a, fastcam::ScalarKind d);
void run_cam_iou_forward(Device&, int multiprocessors, const fastcam::CamLossForward&,
                         fastcam::ScalarKind a, fastcam::ScalarKind d);
void run_cam_backward(Device&, int multiprocessors, const fastcam::CamBackward&,
                      fastcam::ScalarKind a);

}  // namespace emulator
