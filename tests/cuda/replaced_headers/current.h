// The emulated device that the ops of libemulator.so run on: whatever Python has chosen last.
#pragma once

#include "emulator.h"

namespace emulator {

inline Device*& current_device() {
  static Device* device = nullptr;
  return device;
}

}  // namespace emulator
