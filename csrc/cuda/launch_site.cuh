// What every launch needs, without torch.
#pragma once

#include <cstdint>
#include <stdexcept>

#include "../cpu/storage.h"

namespace fastcam {

// Where a launch goes. `workspace(bytes)` hands out device memory, aligned to 256, that lives as
// long as the launch does.
template <class Workspace>
struct LaunchSite {
  int multiprocessors;
  void* stream;
  Workspace workspace;
};

template <class F>
void with_storage(ScalarKind kind, const F& f) {
  switch (kind) {
    case ScalarKind::kFloat: f(float{}); break;
    case ScalarKind::kDouble: f(double{}); break;
    case ScalarKind::kHalf: f(Half{}); break;
    case ScalarKind::kBFloat16: f(BFloat16{}); break;
  }
}

inline int grid_of(int64_t blocks) {
  if (blocks > INT32_MAX) throw std::runtime_error("fastcam: more than 2^31 blocks in a launch");
  return int(blocks);
}

}  // namespace fastcam
