// In place of csrc/cuda/launch.cuh, so that the ops of csrc/cuda are built for the emulator as they
// are: they run on CPU tensors.
#pragma once

#include "emulated_launch.h"
// the emulator first
#include <torch/csrc/stable/library.h>

#include "ops/checks.h"
#include "replaced_headers/current.h"

#undef STABLE_TORCH_LIBRARY_IMPL
#define STABLE_TORCH_LIBRARY_IMPL(ns, device, m) _STABLE_TORCH_LIBRARY_IMPL(ns, CPU, m, C10_UID)

#define FASTCAM_TICKETS(name) [[maybe_unused]] static unsigned name[1]

namespace fastcam {

inline unsigned* next_ticket(unsigned (&)[1], const LaunchSite& site) {
  return static_cast<unsigned*>(std::memset(site.workspace(256), 0, 256));
}

template <class Launch>
void on_device_of(const Tensor&, const Launch& launch) {
  emulator::Device& device = *emulator::current_device();
  launch(emulator::site_of(device, device.options.multiprocessors));
}

inline const std::string& kernels_asked() { return emulator::current_device()->options.kernels; }

template <class Kernel>
int cluster_shared_bytes(const Tensor&, Kernel*) {
  return emulator::current_device()->options.cluster_bytes;
}

}  // namespace fastcam
