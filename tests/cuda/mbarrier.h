// What an mbarrier of the emulated device counts, for both ways to run a launch.
#pragma once

#include <cstdint>

#include "emulator.h"

namespace emulator {

struct Mbarrier {
  int expected;
  int pending;
  int64_t bytes = 0;  // announced, not yet there
  unsigned phase = 0;

  // Whether that ends the phase.
  bool arrive(int count, int64_t announced) {
    pending -= count;
    bytes += announced;
    if (pending < 0) throw Error("more arrivals at an mbarrier than it was made for");
    if (pending != 0 || bytes != 0) return false;
    pending = expected;
    ++phase;
    return true;
  }
  bool waits(unsigned parity) const { return phase % 2 == parity; }
};

}  // namespace emulator
