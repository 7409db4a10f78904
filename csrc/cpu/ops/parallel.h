// Splitting work over torch's threads, with scratch memory for each.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>
#include <new>

namespace fastcam {

// Aligned memory of one thread.
class Scratch {
public:
  explicit Scratch(int64_t bytes) : memory_(::operator new(size_t(bytes), std::align_val_t(64))) {}
  ~Scratch() { ::operator delete(memory_, std::align_val_t(64)); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  void* get() const { return memory_; }

private:
  void* memory_;
};

// Below this many elements a second thread costs more than it saves.
inline constexpr int64_t kGrainElements = 32 * 1024;

// body(begin, end) over `items` items of about `elements_per_item` elements each.
template <class Body>
void parallel_over(int64_t items, int64_t elements_per_item, const Body& body) {
  const int64_t grain =
      std::max<int64_t>(1, kGrainElements / std::max<int64_t>(1, elements_per_item));
  torch::stable::parallel_for(0, items, grain, body);
}

}  // namespace fastcam
