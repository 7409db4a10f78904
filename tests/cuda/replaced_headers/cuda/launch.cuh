// In place of csrc/cuda/launch.cuh, so that the ops of csrc/cuda are built for the emulator as they
// are: they run on CPU tensors.
#pragma once

#include "emulated_launch.h"
// the emulator first
#include <torch/csrc/stable/library.h>

#include <utility>

#include "ops/checks.h"
#include "replaced_headers/current.h"

#undef STABLE_TORCH_LIBRARY_IMPL
#define STABLE_TORCH_LIBRARY_IMPL(ns, device, m) _STABLE_TORCH_LIBRARY_IMPL(ns, CPU, m, C10_UID)

#define FASTCAM_TICKETS(name) [[maybe_unused]] static unsigned name[1]

namespace fastcam {

// Always the same one: a launch that does not leave it zero makes the next one fail.
inline unsigned* next_ticket(unsigned (&tickets)[1], const LaunchSite&) {
  if (std::exchange(tickets[0], 0u) != 0) throw emulator::Error("a counter that is not left zero");
  emulator::current_device()->add_buffer(tickets, sizeof(tickets));
  return tickets;
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
