#include "emulator.h"

#include <algorithm>
#include <exception>
#include <random>

#include "fiber.h"
#include "races.h"

namespace emulator {

thread_local Thread current;
Races* races = nullptr;

void saw_global(const void* p, size_t bytes, bool write, const void* site) {
  races->global(p, bytes, write, site);
}
void saw_fence() {
  if (races != nullptr) races->fence();
}
void saw_ticket(const void* counter) {
  if (races != nullptr) races->ticket(counter);
}

// ---- traffic ------------------------------------------------------------------------------------

void Counter::add(Group& group, Traffic* total) {
  std::vector<Span>& spans = group.spans;
  if (spans.empty()) return;
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

// ---- checks -------------------------------------------------------------------------------------

void Device::add_buffer(const void* data, size_t bytes) {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(data);
  if (bytes > 0) buffers.push_back({begin, begin + bytes});
}

Device::Buffer& Device::check(const void* p, size_t bytes, size_t alignment, const char* what) {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(p);
  if (begin % alignment != 0) {
    throw Error(std::string("misaligned ") + what + " of " + std::to_string(bytes) + " bytes");
  }
  for (Buffer& buffer : buffers) {
    if (begin >= buffer.begin && begin + bytes <= buffer.end) return buffer;
  }
  throw Error(std::string("out-of-range ") + what + " of " + std::to_string(bytes) + " bytes");
}

namespace {

// ---- fibers -------------------------------------------------------------------------------------

class FiberCluster;

// What an mbarrier counts.
struct Mbarrier {
  int expected;
  int pending;
  int64_t bytes;  // announced, not yet there
  unsigned phase;
  size_t made_by;
  bool fenced;

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

// The blocks of a cluster share a FiberCluster, which runs them.
class FiberBlock final : public Block {
public:
  void barrier() override;
  uint32_t shuffle_xor(uint32_t value, int lane_mask) override;
  void cluster_arrive() override;
  void cluster_wait() override;
  Block& of_cluster(int other) override;
  void barrier_init(const void* at, int arrivals) override;
  void barrier_init_fence() override;
  void barrier_arrive(const void* at, int64_t expected_bytes) override;
  void barrier_wait(const void* at, unsigned parity) override;
  void bulk_copy(void* to, const void* from, uint32_t bytes, const void* at) override;
  void copy_later(void* to, const void* from, int bytes) override;
  void copies_wait() override;

  FiberCluster* cluster = nullptr;
  Counter own_counter;
};

// One OS thread runs the CUDA threads of a cluster in turn, each until it waits.
class FiberCluster {
public:
  FiberCluster(int ranks, int threads, size_t shared_bytes, const std::function<void()>& kernel)
      : kernel_(kernel), threads_(size_t(threads)), blocks_(size_t(ranks)),
        lanes_(size_t(ranks * threads)), exchange_(lanes_.size() * 2), shared_bytes_(shared_bytes) {
  }

  void run(Device& device, int first_block) {
    std::vector<std::unique_ptr<char, decltype(&std::free)>> memory;
    for (size_t b = 0; b < blocks_.size(); ++b) {
      // Its own allocation for each block, so that AddressSanitizer watches both ends.
      memory.emplace_back(
          static_cast<char*>(std::aligned_alloc(128, (shared_bytes_ + 127) / 128 * 128)),
          &std::free);
      poison(memory.back().get(), shared_bytes_);
      FiberBlock& block = blocks_[b];
      block.cluster = this;
      block.rank = int(b);
      block.shared = memory.back().get();
      block.shared_bytes = shared_bytes_;
      block.counter = device.options.count ? &block.own_counter : nullptr;
      if (races != nullptr) races->block_begins(first_block + int(b), block.shared, shared_bytes_);
    }
    for (size_t i = 0; i < lanes_.size(); ++i) {
      const unsigned thread = unsigned(i % threads_);
      Lane& lane = lanes_[i];
      lane.cluster = this;
      lane.state = State::kReady;
      lane.shuffles = 0;
      lane.cluster_phase = 0;
      lane.later.clear();
      lane.thread = Thread{&device,
                           &blocks_[i / threads_],
                           unsigned(i % threads_),
                           {thread, 0, 0},
                           {unsigned(first_block) + unsigned(i / threads_), 0, 0},
                           {unsigned(threads_), 1, 1}};
      lane.fiber.prepare(&body, &lane);
    }
    device_ = &device;
    first_block_ = first_block;
    random_.seed(device.options.seed + unsigned(first_block));
    error_ = nullptr;
    barriers_.clear();
    copies_.clear();
    cluster_arrivals_ = 0;
    cluster_phase_ = 0;
    while (device.options.seed != 0 ? drawn_step() : step()) {
    }
    if (races != nullptr) races->cluster_ends(first_block, int(blocks_.size()));
    for (FiberBlock& block : blocks_) block.own_counter.flush(&device.traffic);
    if (error_) std::rethrow_exception(error_);
  }

private:
  friend class FiberBlock;
  enum class State { kReady, kAtBarrier, kAtShuffle, kWaiting, kDone };
  struct Copy {
    void* to;
    const void* from;
    size_t bytes;
  };
  struct Lane {
    Fiber fiber;
    FiberCluster* cluster = nullptr;
    State state = State::kReady;
    unsigned shuffles = 0;
    unsigned cluster_phase = 0;  // that its last arrival belongs to
    std::function<bool()> over;  // what a waiting lane waits for
    std::vector<Copy> later;     // small copies that it has asked for
    Thread thread;
  };
  // A bulk copy, which ends as late as it may.
  struct Pending {
    Copy copy;
    size_t block;
    const void* barrier;
  };

  static void body(void* argument) {
    Lane& lane = *static_cast<Lane*>(argument);
    try {
      lane.cluster->kernel_();
      if (!lane.later.empty()) throw Error("a thread that leaves before its copies have ended");
    } catch (...) {
      if (!lane.cluster->error_) lane.cluster->error_ = std::current_exception();
    }
    lane.state = State::kDone;
    lane.fiber.leave(true);
  }

  size_t running() const { return size_t(running_ - lanes_.data()); }
  size_t running_block() const { return running() / threads_; }

  void wait(State state) {
    Lane& lane = *running_;
    lane.state = state;
    lane.fiber.leave();
  }
  void wait_until(std::function<bool()> over) {
    if (over()) return;
    running_->over = std::move(over);
    wait(State::kWaiting);
  }

  bool is_done(size_t block) const {
    return std::all_of(lanes_.begin() + std::ptrdiff_t(block * threads_),
                       lanes_.begin() + std::ptrdiff_t((block + 1) * threads_),
                       [](const Lane& lane) { return lane.state == State::kDone; });
  }

  Mbarrier& mbarrier(const void* at) {
    const auto found = barriers_.find(at);
    if (found == barriers_.end()) throw Error("an mbarrier that nobody has made");
    return found->second;
  }
  void arrive(const void* at, int count, int64_t bytes) {
    Mbarrier& barrier = mbarrier(at);
    if (barrier.arrive(count, bytes) && races != nullptr) races->mbarrier_ends(at, barrier.phase);
  }

  // A warp as far as it gets, or one copy.
  bool drawn_step() {
    if (!copies_.empty() && random_() % 8 == 0) {
      perform(random_() % copies_.size());
      return true;
    }
    const size_t warps = lanes_.size() / 32;
    const size_t from = random_();
    for (size_t i = 0; i < warps; ++i) {
      const size_t warp = (from + i) % warps;
      Lane* lanes = &lanes_[warp * 32];
      bool ready = false;
      for (int l = 0; l < 32; ++l) {
        if (lanes[l].state == State::kWaiting && lanes[l].over()) lanes[l].state = State::kReady;
        ready = ready || lanes[l].state == State::kReady;
      }
      if (!ready) continue;
      run_warp(int(warp));
      if (!error_) release_barrier(warp * 32 / threads_);
      return !error_;
    }
    return step();  // what only the last copies let go on, the end, or an error
  }

  // Every block as far as it gets, one after the other, so that those of a cluster are as far apart
  // as they can be; false when all are done.
  bool step() {
    const bool reversed = device_->options.reversed;
    bool moved = false;
    for (size_t i = 0; i < blocks_.size(); ++i) {
      while (run_block(reversed ? blocks_.size() - 1 - i : i)) moved = true;
    }
    if (error_) return false;  // the other fibers are given up where they stand
    if (moved) return true;
    if (std::all_of(lanes_.begin(), lanes_.end(),
                    [](const Lane& lane) { return lane.state == State::kDone; })) {
      if (!copies_.empty()) throw Error("a block that leaves before its copies have ended");
      return false;
    }
    if (!copies_.empty()) {
      perform(reversed ? copies_.size() - 1 : 0);
      return true;
    }
    for (const Lane& lane : lanes_) {
      if (lane.state == State::kAtShuffle) {
        throw Error("a shuffle that not all lanes of the warp reach");
      }
    }
    for (const Lane& lane : lanes_) {
      if (lane.state == State::kAtBarrier) {
        throw Error("a barrier that not all threads of the block reach");
      }
    }
    throw Error("a wait that nothing ends");
  }

  // Every warp as far as it gets, then whatever that lets go on in this block; false if nothing.
  bool run_block(size_t b) {
    const int warps = int(threads_ / 32);
    const int first = int(b) * warps;
    for (int w = 0; w < warps && !error_; ++w) {
      run_warp(first + (device_->options.reversed ? warps - 1 - w : w));
    }
    if (error_) return false;
    bool moved = release_barrier(b);
    for (size_t i = b * threads_; i < (b + 1) * threads_; ++i) {
      Lane& lane = lanes_[i];
      if (lane.state != State::kWaiting || !lane.over()) continue;
      lane.state = State::kReady;
      moved = true;
    }
    return moved;
  }

  bool release_barrier(size_t b) {
    const auto begin = lanes_.begin() + std::ptrdiff_t(b * threads_);
    const auto end = begin + std::ptrdiff_t(threads_);
    if (!std::all_of(begin, end,
                     [](const Lane& lane) { return lane.state == State::kAtBarrier; })) {
      return false;
    }
    std::for_each(begin, end, [](Lane& lane) { lane.state = State::kReady; });
    if (blocks_[b].counter != nullptr) blocks_[b].counter->flush(&device_->traffic);
    if (races != nullptr) races->block_barrier(first_block_ + int(b));
    return true;
  }

  void perform(size_t i) {
    const Pending pending = copies_[i];
    copies_.erase(copies_.begin() + std::ptrdiff_t(i));
    if (is_done(pending.block)) throw Error("a block that leaves before its copies have ended");
    std::memcpy(pending.copy.to, pending.copy.from, pending.copy.bytes);
    arrive(pending.barrier, 0, -int64_t(pending.copy.bytes));
  }

  void run_warp(int warp) {
    Lane* lanes = &lanes_[size_t(warp) * 32];
    for (;;) {
      for (int i = 0; i < 32 && !error_; ++i) {
        Lane& lane = lanes[device_->options.reversed ? 31 - i : i];
        if (lane.state != State::kReady) continue;
        running_ = &lane;
        current = lane.thread;
        lane.fiber.enter();
      }
      if (error_) return;
      const auto at = [&](State state) {
        return std::count_if(lanes, lanes + 32,
                             [&](const Lane& lane) { return lane.state == state; });
      };
      const auto shuffling = at(State::kAtShuffle);
      if (shuffling == 0 || at(State::kWaiting) > 0) return;
      if (shuffling != 32) throw Error("a shuffle that not all lanes of the warp reach");
      for (int i = 0; i < 32; ++i) lanes[i].state = State::kReady;
    }
  }

  const std::function<void()>& kernel_;
  size_t threads_;
  std::vector<FiberBlock> blocks_;
  std::vector<Lane> lanes_;
  std::vector<uint32_t> exchange_;
  size_t shared_bytes_;
  Device* device_ = nullptr;
  Lane* running_ = nullptr;
  int first_block_ = 0;
  std::mt19937 random_;
  std::exception_ptr error_;
  std::map<const void*, Mbarrier> barriers_;
  std::vector<Pending> copies_;
  size_t cluster_arrivals_ = 0;
  unsigned cluster_phase_ = 0;
};

void FiberBlock::barrier() { cluster->wait(FiberCluster::State::kAtBarrier); }

uint32_t FiberBlock::shuffle_xor(uint32_t value, int lane_mask) {
  FiberCluster::Lane& lane = *cluster->running_;
  const size_t i = cluster->running();
  std::vector<uint32_t>& exchange = cluster->exchange_;
  const size_t side = lane.shuffles++ % 2 * cluster->lanes_.size();  // the next must not overwrite
  exchange[side + i] = value;
  cluster->wait(FiberCluster::State::kAtShuffle);
  return exchange[side + (i ^ size_t(lane_mask))];
}

void FiberBlock::cluster_arrive() {
  FiberCluster::Lane& lane = *cluster->running_;
  if (lane.cluster_phase != cluster->cluster_phase_) throw Error("two arrivals without a wait");
  ++lane.cluster_phase;
  const bool last = ++cluster->cluster_arrivals_ == cluster->lanes_.size();
  if (races != nullptr) races->cluster_arrive(last);
  if (last) {
    cluster->cluster_arrivals_ = 0;
    ++cluster->cluster_phase_;
  }
}
void FiberBlock::cluster_wait() {
  const unsigned phase = cluster->running_->cluster_phase;
  cluster->wait_until([this, phase] { return cluster->cluster_phase_ == phase; });
  if (races != nullptr) races->cluster_wait();
}
Block& FiberBlock::of_cluster(int other) {
  if (other < 0 || size_t(other) >= cluster->blocks_.size()) {
    throw Error("no block of the cluster has this rank");
  }
  if (cluster->is_done(size_t(other))) throw Error("shared memory of a block that has left");
  return cluster->blocks_[size_t(other)];
}

void FiberBlock::barrier_init(const void* at, int arrivals) {
  if (!is_shared(at, 8)) throw Error("an mbarrier that is not in shared memory");
  if (reinterpret_cast<uintptr_t>(at) % 8 != 0) throw Error("a misaligned mbarrier");
  if (races != nullptr) races->shared(at, 8, true, __builtin_return_address(0));
  cluster->barriers_[at] = {arrivals, arrivals, 0, 0, cluster->running(), false};
}
void FiberBlock::barrier_init_fence() {
  for (auto& entry : cluster->barriers_) {
    if (entry.second.made_by == cluster->running()) entry.second.fenced = true;
  }
}
void FiberBlock::barrier_arrive(const void* at, int64_t expected_bytes) {
  if (races != nullptr) {
    races->shared(at, 8, false, __builtin_return_address(0));
    races->mbarrier_arrive(at);
  }
  cluster->arrive(at, 1, expected_bytes);
}
void FiberBlock::barrier_wait(const void* at, unsigned parity) {
  cluster->mbarrier(at);  // there is one
  if (races != nullptr) races->shared(at, 8, false, __builtin_return_address(0));
  cluster->wait_until([this, at, parity] { return !cluster->mbarrier(at).waits(parity); });
  if (races != nullptr) races->mbarrier_wait(at);
}
void FiberBlock::bulk_copy(void* to, const void* from, uint32_t bytes, const void* at) {
  if (bytes == 0 || bytes % 16 != 0) throw Error("a bulk copy of no multiple of 16 bytes");
  if (reinterpret_cast<uintptr_t>(to) % 16 != 0 || !is_shared(to, bytes)) {
    throw Error("a bulk copy to where no aligned shared memory is");
  }
  if (!cluster->mbarrier(at).fenced) throw Error("a bulk copy on an mbarrier without its fence");
  Device& device = *cluster->device_;
  Device::Buffer& buffer = device.check(from, bytes, 16, "bulk copy");
  buffer.uses |= kReadOnly;
  if ((buffer.uses & kWritten) != 0) throw Error("bulk copy of memory that the launch writes");
  if (counter != nullptr) {
    const uintptr_t begin = reinterpret_cast<uintptr_t>(from);
    device.traffic.loaded_bytes += bytes;
    device.traffic.sectors += int64_t((begin + bytes - 1) / 32 - begin / 32 + 1);
    device.traffic.accesses += 1;
    device.traffic.vector_accesses += 1;
  }
  if (races != nullptr) races->bulk_copy(to, bytes, at, cluster->mbarrier(at).phase);
  cluster->copies_.push_back({{to, from, bytes}, cluster->running_block(), at});
}
void FiberBlock::copy_later(void* to, const void* from, int bytes) {
  if (reinterpret_cast<uintptr_t>(to) % size_t(bytes) != 0 || !is_shared(to, size_t(bytes))) {
    throw Error("a copy to where no aligned shared memory is");
  }
  if (races != nullptr) races->small_copy_begins(to, size_t(bytes), __builtin_return_address(0));
  cluster->running_->later.push_back({to, from, size_t(bytes)});
}
void FiberBlock::copies_wait() {
  std::vector<FiberCluster::Copy>& later = cluster->running_->later;
  for (const FiberCluster::Copy& copy : later) {
    std::memcpy(copy.to, copy.from, copy.bytes);
    if (races != nullptr) races->small_copy_ends(copy.to, copy.bytes);
  }
  later.clear();
}

void launch_fibers(Device& device, int blocks, int threads, size_t shared_bytes, int ranks,
                   const std::function<void()>& kernel) {
  FiberCluster cluster(ranks, threads, shared_bytes, kernel);
  const int clusters = blocks / ranks;
  Races of_launch(blocks, threads);
  const std::unique_ptr<Races*, void (*)(Races**)> until_the_end(&races,
                                                                 [](Races** r) { *r = nullptr; });
  if (device.options.watch) races = &of_launch;
  for (int c = 0; c < clusters; ++c) {
    cluster.run(device, (device.options.reversed ? clusters - 1 - c : c) * ranks);
  }
  if (!of_launch.first().empty()) throw Error(of_launch.first());
}

}  // namespace

void launch(Device& device, int blocks, int threads, size_t shared_bytes,
            const std::function<void()>& kernel, int ranks, size_t shared_limit) {
  if (threads % 32 != 0 || threads < 32 || threads > 1024) throw Error("threads of a block");
  if (shared_bytes > shared_limit) {
    throw Error("more than " + std::to_string(shared_limit / 1024) + " KiB of shared memory");
  }
  if (ranks < 1 || ranks > 8 || blocks % ranks != 0) throw Error("blocks of a cluster");
  ++device.launches;
  for (Device::Buffer& buffer : device.buffers) buffer.uses = 0;
  blocks = int(int64_t(blocks / ranks) * device.options.part / device.options.whole) * ranks;
  launch_fibers(device, blocks, threads, shared_bytes, ranks, kernel);
}

}  // namespace emulator
