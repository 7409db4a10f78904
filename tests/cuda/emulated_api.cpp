// What the Python tests call of the emulator through ctypes (emulation.py), besides the ops.
#include <cstdio>

#include "planted_bugs.h"
#include "replaced_headers/current.h"

namespace {

using namespace emulator;
using namespace fastcam;

template <class F>
int guarded(char* message, int size, const F& f) {
  try {
    f();
    return 0;
  } catch (const std::exception& error) {
    std::snprintf(message, size_t(size), "%s", error.what());
    return 1;
  }
}

}  // namespace

extern "C" {

void* emulator_new(int reversed, int count, int part, int whole, int multiprocessors,
                   int cluster_bytes, unsigned seed, int watch, const char* kernels) {
  auto* device = new Device;
  device->options.reversed = reversed != 0;
  device->options.count = count != 0;
  device->options.part = part;
  device->options.whole = whole;
  device->options.multiprocessors = multiprocessors;
  device->options.cluster_bytes = cluster_bytes;
  device->options.seed = seed;
  device->options.watch = watch != 0;
  device->options.kernels = kernels;
  return device;
}
// The next op runs on this device, and may touch its own tensors alone.
void emulator_use(void* device) {
  current_device() = static_cast<Device*>(device);
  current_device()->buffers.clear();
}
void emulator_delete(void* device) { delete static_cast<Device*>(device); }
void emulator_add_buffer(void* device, const void* data, int64_t bytes) {
  static_cast<Device*>(device)->add_buffer(data, size_t(bytes));
}
// loaded, stored, sectors, accesses of warps, of these 16 bytes a lane, launches
void emulator_traffic(const void* handle, int64_t* out) {
  const Device& device = *static_cast<const Device*>(handle);
  out[0] = device.traffic.loaded_bytes;
  out[1] = device.traffic.stored_bytes;
  out[2] = device.traffic.sectors;
  out[3] = device.traffic.accesses;
  out[4] = device.traffic.vector_accesses;
  out[5] = device.launches;
}

// Every bit pattern of a 16-bit type as float, and floats rounded to it.
void emulate_widening(int kind, float* values) {
  for (int i = 0; i < 65536; ++i) {
    if (ScalarKind(kind) == ScalarKind::kHalf) {
      values[i] = to_acc(Half{uint16_t(i)});
    } else {
      values[i] = to_acc(BFloat16{uint16_t(i)});
    }
  }
}
void emulate_rounding(int kind, const float* values, uint16_t* bits, int count) {
  for (int i = 0; i < count; ++i) {
    bits[i] = ScalarKind(kind) == ScalarKind::kHalf ? from_acc<Half>(values[i]).bits
                                                    : from_acc<BFloat16>(values[i]).bits;
  }
}

// Kernels with a known mistake; `data` holds 64 floats.
int emulate_planted_bug(void* device, const char* bug, float* data, char* message,
                        int message_size) {
  return guarded(message, message_size,
                 [&] { run_planted_bug(*static_cast<Device*>(device), bug, data); });
}
}
