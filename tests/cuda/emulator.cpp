#include "emulator.h"

#include <algorithm>
#include <exception>

#include "fiber.h"

namespace emulator {

thread_local Thread current;

// ---- traffic -----------------------------------------------------------------------------------

void Counter::add(Group& group, Traffic* total) {
  std::vector<Span>& spans = group.spans;
  if (!std::is_sorted(spans.begin(), spans.end(),
                      [](Span a, Span b) { return a.begin < b.begin; })) {
    std::sort(spans.begin(), spans.end(), [](Span a, Span b) { return a.begin < b.begin; });
  }
  int64_t bytes = 0;
  int64_t sectors = 0;
  uintptr_t seen = 0;         // bytes below are counted
  uintptr_t seen_sector = 0;  // sectors below are counted
  for (const Span& span : spans) {
    const uintptr_t begin = std::max(span.begin, seen);
    if (begin < span.end) {
      bytes += int64_t(span.end - begin);
      seen = span.end;
    }
    const uintptr_t first = std::max(span.begin / 32, seen_sector);
    const uintptr_t last = (span.end - 1) / 32;
    if (first <= last) {
      sectors += int64_t(last - first + 1);
      seen_sector = last + 1;
    }
  }
  (group.is_store ? total->stored_bytes : total->loaded_bytes) += bytes;
  total->sectors += sectors;
  total->accesses += 1;
  total->vector_accesses += group.vector ? 1 : 0;
}

// ---- checks ------------------------------------------------------------------------------------

void Device::add_buffer(const void* data, size_t bytes) {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(data);
  if (bytes > 0) buffers.push_back({begin, begin + bytes});
}

Device::Buffer& Device::check(const void* p, size_t bytes, const char* what) {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(p);
  if (begin % bytes != 0) {
    throw Error(std::string("misaligned ") + what + " of " + std::to_string(bytes) + " bytes");
  }
  for (Buffer& buffer : buffers) {
    if (begin >= buffer.begin && begin + bytes <= buffer.end) return buffer;
  }
  throw Error(std::string("out-of-range ") + what + " of " + std::to_string(bytes) + " bytes");
}

namespace {

// Shared memory holds NaN in every type until it is written.
void poison(char* shared, size_t bytes) { std::memset(shared, 0xff, bytes); }

// ---- fibers ------------------------------------------------------------------------------------

// One OS thread runs the CUDA threads of a block in turn, each until it waits.
class FiberBlock final : public Block {
public:
  FiberBlock(int threads, const std::function<void()>& kernel)
      : kernel_(kernel), lanes_(size_t(threads)), exchange_(size_t(threads) * 2) {}

  void run(Device& device, int block_index) {
    const int threads = int(lanes_.size());
    for (int i = 0; i < threads; ++i) {
      Lane& lane = lanes_[size_t(i)];
      lane.block = this;
      lane.state = State::kReady;
      lane.shuffles = 0;
      lane.thread = Thread{&device,
                           this,
                           unsigned(i),
                           {unsigned(i), 0, 0},
                           {unsigned(block_index), 0, 0},
                           {unsigned(threads), 1, 1}};
      lane.fiber.prepare(&body, &lane);
    }
    error_ = nullptr;
    while (round(device.options.reversed)) {
    }
    if (counter != nullptr) counter->flush(&device.traffic);
    if (error_) std::rethrow_exception(error_);
  }

  void barrier() override { wait(State::kAtBarrier); }

  uint32_t shuffle_xor(uint32_t value, int lane_mask) override {
    Lane& lane = *running_;
    const size_t i = lane.thread.index;
    const size_t side = lane.shuffles++ % 2 * lanes_.size();  // the next one must not overwrite it
    exchange_[side + i] = value;
    wait(State::kAtShuffle);
    return exchange_[side + (i ^ size_t(lane_mask))];
  }

private:
  enum class State { kReady, kAtBarrier, kAtShuffle, kDone };
  struct Lane {
    Fiber fiber;
    FiberBlock* block = nullptr;
    State state = State::kReady;
    unsigned shuffles = 0;
    Thread thread;
  };

  static void body(void* argument) {
    Lane& lane = *static_cast<Lane*>(argument);
    try {
      lane.block->kernel_();
    } catch (...) {
      if (!lane.block->error_) lane.block->error_ = std::current_exception();
    }
    lane.state = State::kDone;
    lane.fiber.leave(true);
  }

  void wait(State state) {
    Lane& lane = *running_;
    lane.state = state;
    lane.fiber.leave();
  }

  // Every warp as far as the next barrier; false when all are done.
  bool round(bool reversed) {
    const int warps = int(lanes_.size() / 32);
    for (int w = 0; w < warps && !error_; ++w) run_warp(reversed ? warps - 1 - w : w);
    if (error_) return false;  // the other fibers are given up where they stand
    const auto at = [&](State state) {
      return std::count_if(lanes_.begin(), lanes_.end(),
                           [&](const Lane& lane) { return lane.state == state; });
    };
    const auto done = at(State::kDone);
    if (done == std::ptrdiff_t(lanes_.size())) return false;
    if (done > 0) throw Error("a barrier that not all threads of the block reach");
    for (Lane& lane : lanes_) lane.state = State::kReady;
    if (counter != nullptr) counter->flush(&lanes_[0].thread.device->traffic);
    return true;
  }

  void run_warp(int warp) {
    Lane* lanes = &lanes_[size_t(warp) * 32];
    for (;;) {
      for (int i = 0; i < 32 && !error_; ++i) {
        if (lanes[i].state != State::kReady) continue;
        running_ = &lanes[i];
        current = lanes[i].thread;
        lanes[i].fiber.enter();
      }
      if (error_) return;
      const auto shuffling = std::count_if(
          lanes, lanes + 32, [](const Lane& lane) { return lane.state == State::kAtShuffle; });
      if (shuffling == 0) return;
      if (shuffling != 32) throw Error("a shuffle that not all lanes of the warp reach");
      for (int i = 0; i < 32; ++i) lanes[i].state = State::kReady;
    }
  }

  const std::function<void()>& kernel_;
  std::vector<Lane> lanes_;
  std::vector<uint32_t> exchange_;
  Lane* running_ = nullptr;
  std::exception_ptr error_;
};

void launch_fibers(Device& device, int blocks, int threads, size_t shared_bytes,
                   const std::function<void()>& kernel) {
  FiberBlock block(threads, kernel);
  Counter counter;
  if (device.options.count) block.counter = &counter;
  block.shared_bytes = shared_bytes;
  for (int b = 0; b < blocks; ++b) {
    // Its own allocation for each block, so that AddressSanitizer watches both ends.
    std::unique_ptr<char, decltype(&std::free)> shared(
        static_cast<char*>(std::aligned_alloc(16, (shared_bytes + 15) / 16 * 16)), &std::free);
    poison(shared.get(), shared_bytes);
    block.shared = shared.get();
    block.run(device, device.options.reversed ? blocks - 1 - b : b);
  }
}

// ---- threads -----------------------------------------------------------------------------------

class ThreadBlock final : public Block {
public:
  explicit ThreadBlock(int threads) : barrier_(threads), exchange_(size_t(threads) * 2) {
    for (int w = 0; w < threads / 32; ++w) warps_.push_back(std::make_unique<std::barrier<>>(32));
  }
  void barrier() override { barrier_.arrive_and_wait(); }
  uint32_t shuffle_xor(uint32_t value, int lane_mask) override {
    static thread_local unsigned shuffles = 0;
    const size_t i = current.index;
    const size_t side = shuffles++ % 2 * (exchange_.size() / 2);
    exchange_[side + i] = value;
    warps_[i / 32]->arrive_and_wait();
    return exchange_[side + (i ^ size_t(lane_mask))];
  }

private:
  std::barrier<> barrier_;
  std::vector<std::unique_ptr<std::barrier<>>> warps_;
  std::vector<uint32_t> exchange_;
};

// Errors cannot be carried out of a block whose other threads wait at a barrier: they end the
// program.
void launch_threads(Device& device, int blocks, int threads, size_t shared_bytes,
                    const std::function<void()>& kernel) {
  std::vector<std::thread> all;
  std::vector<std::unique_ptr<ThreadBlock>> held;
  std::vector<std::unique_ptr<char[]>> memory;
  for (int b = 0; b < blocks; ++b) {
    held.push_back(std::make_unique<ThreadBlock>(threads));
    memory.push_back(std::make_unique<char[]>(shared_bytes));
    poison(memory.back().get(), shared_bytes);
    held.back()->shared = memory.back().get();
    held.back()->shared_bytes = shared_bytes;
    for (int i = 0; i < threads; ++i) {
      all.emplace_back([&, b, i, block = held.back().get()] {
        current = Thread{&device,
                         block,
                         unsigned(i),
                         {unsigned(i), 0, 0},
                         {unsigned(b), 0, 0},
                         {unsigned(threads), 1, 1}};
        kernel();
      });
    }
  }
  for (std::thread& thread : all) thread.join();
}

}  // namespace

void launch(Device& device, int blocks, int threads, size_t shared_bytes,
            const std::function<void()>& kernel) {
  if (threads % 32 != 0 || threads < 32 || threads > 1024) throw Error("threads of a block");
  if (shared_bytes > 48 * 1024) throw Error("more than 48 KiB of shared memory");
  ++device.launches;
  for (Device::Buffer& buffer : device.buffers) buffer.uses = 0;
  blocks = int(int64_t(blocks) * device.options.part / device.options.whole);
  if (device.options.mode == Mode::kFibers) {
    launch_fibers(device, blocks, threads, shared_bytes, kernel);
  } else {
    launch_threads(device, blocks, threads, shared_bytes, kernel);
  }
}

}  // namespace emulator
