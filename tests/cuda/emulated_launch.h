// What a launch is to the emulator. Include it before the launchers of csrc/cuda.
#pragma once

#include "emulator.h"

#define FASTCAM_LAUNCH(kernel, blocks, threads, shared_bytes, stream, ...)       \
  ::emulator::launch(*static_cast<::emulator::Device*>(stream), blocks, threads, \
                     size_t(shared_bytes), [&] { kernel(__VA_ARGS__); })
#define FASTCAM_LAUNCH_CLUSTER(kernel, blocks, threads, shared_bytes, ranks, stream, ...) \
  ::emulator::launch(                                                                     \
      *static_cast<::emulator::Device*>(stream), blocks, threads, size_t(shared_bytes),   \
      [&] { kernel(__VA_ARGS__); }, ranks, ::emulator::kClusterSharedBytes)
#define FASTCAM_CLEAR(pointer, bytes, stream) std::memset(pointer, 0, size_t(bytes))

#include "cuda/launch_site.cuh"

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

inline fastcam::LaunchSite site_of(Device& device, int multiprocessors) {
  fastcam::LaunchSite site{multiprocessors, &device, Workspace(&device), {}};
  site.ticket = [workspace = site.workspace] {
    return static_cast<unsigned*>(std::memset(workspace(256), 0, 256));
  };
  return site;
}

}  // namespace emulator
