// What the programs under sanitizers share. Before the launchers of csrc/cuda.
#pragma once

#include <cmath>
#include <cstdio>
#include <memory>
#include <vector>

#include "emulated_launch.h"

namespace emulator {

// A device of one multiprocessor, and where its launches go.
struct SmallDevice {
  Device device;
  fastcam::LaunchSite site;

  explicit SmallDevice(bool reversed) {
    device.options.reversed = reversed;
    site = site_of(device, 1);
  }
  SmallDevice(const SmallDevice&) = delete;
  SmallDevice& operator=(const SmallDevice&) = delete;
};

// Memory of exactly the size asked for, `offset` values after an aligned address.
template <class T>
class Array {
public:
  Array(Device* device, int64_t count, int64_t offset = 0)
      : values_(new T[size_t(offset + count)]), offset_(offset), count_(count) {
    device->add_buffer(data(), size_t(count) * sizeof(T));
  }
  T& operator[](int64_t i) { return data()[i]; }
  T* data() { return values_.get() + offset_; }
  int64_t count() const { return count_; }

private:
  std::unique_ptr<T[]> values_;
  int64_t offset_;
  int64_t count_;
};

inline bool near(double got, double wanted, double tolerance) {
  return std::fabs(got - wanted) <= tolerance * (1 + std::fabs(wanted));
}

inline bool report(const char* name, const char* what, bool good) {
  std::printf("%s, %s: %s\n", name, what, good ? "ok" : "WRONG");
  std::fflush(stdout);
  return good;
}

}  // namespace emulator
