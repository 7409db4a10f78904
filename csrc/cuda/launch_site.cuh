// What every launch needs, without torch.
#pragma once

#include <cstdint>
#include <functional>
#include <stdexcept>

#include "common/storage.h"

namespace fastcam {

// Where a launch goes. `workspace(bytes)` hands out device memory, aligned to 256, that lives as
// long as the launch does; `ticket()` a counter that is zero, and that the launch leaves zero.
struct LaunchSite {
  int multiprocessors;
  void* stream;
  std::function<void*(int64_t)> workspace;
  std::function<unsigned*()> ticket;
  bool ring = false;  // the one-pass loss of several targets with D's stages in A's place
};

inline int grid_of(int64_t blocks) {
  if (blocks > INT32_MAX) throw std::runtime_error("fastcam: more than 2^31 blocks in a launch");
  return int(blocks);
}

// A launch(op, storage kinds..., site) as the ops of csrc/ops call it: on the device of a tensor.
// on_device_of() is that of cuda/launch.cuh, or the emulator's.
template <auto launch>
struct OnDevice {
  template <class Tensor, class Op, class... Kinds>
  void operator()(const Tensor& tensor, const Op& op, Kinds... kinds) const {
    on_device_of(tensor, [&](const LaunchSite& site) { launch(op, kinds..., site); });
  }
};

}  // namespace fastcam
