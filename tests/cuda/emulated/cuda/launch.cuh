// In place of csrc/cuda/launch.cuh, so that the ops of csrc/cuda are built for the emulator as they
// are: they run on CPU tensors.
#pragma once

#include "emulated_launch.h"
// the emulator first
#include <torch/csrc/stable/library.h>

#include "emulated/current.h"
#include "ops/checks.h"

#undef STABLE_TORCH_LIBRARY_IMPL
#define STABLE_TORCH_LIBRARY_IMPL(ns, device, m) _STABLE_TORCH_LIBRARY_IMPL(ns, CPU, m, C10_UID)

namespace fastcam {

template <class Launch>
void on_device_of(const Tensor&, const Launch& launch) {
  emulator::Device& device = *emulator::current_device();
  launch(emulator::site_of(device, device.options.multiprocessors));
}

template <class Kernel>
int cluster_shared_bytes(const Tensor&, Kernel*) {
  return emulator::current_device()->options.cluster_bytes;
}

}  // namespace fastcam
