// The emulator's other way to run a launch: every CUDA thread is an OS thread, for ThreadSanitizer.
#pragma once

#include <condition_variable>
#include <mutex>
#include <optional>

#include "emulator.h"
#include "mbarrier.h"

namespace emulator {

// What the blocks of a cluster share.
struct ThreadCluster {
  explicit ThreadCluster(int all) : barrier(all) {}

  std::barrier<> barrier;
  std::vector<Block*> blocks;
  std::mutex mutex;
  std::condition_variable changed;
  std::map<const void*, Mbarrier> barriers;

  void arrive(const void* at, int count, int64_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex);
    if (barriers.at(at).arrive(count, bytes)) changed.notify_all();
  }
};

// Copies are made where they are asked for: it is for ThreadSanitizer to see who reads what they
// write without having waited.
class ThreadBlock final : public Block {
public:
  ThreadBlock(int threads, ThreadCluster* cluster)
      : barrier_(threads), exchange_(size_t(threads) * 2), cluster_(cluster) {
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
  void cluster_arrive() override { arrived() = cluster_->barrier.arrive(); }
  void cluster_wait() override { cluster_->barrier.wait(std::move(*arrived())); }
  Block& of_cluster(int other) override { return *cluster_->blocks.at(size_t(other)); }
  void barrier_init(const void* at, int arrivals) override {
    const std::lock_guard<std::mutex> lock(cluster_->mutex);
    cluster_->barriers[at] = {arrivals, arrivals};
  }
  void barrier_init_fence() override {}
  void barrier_arrive(const void* at, int64_t expected_bytes) override {
    cluster_->arrive(at, 1, expected_bytes);
  }
  void barrier_wait(const void* at, unsigned parity) override {
    std::unique_lock<std::mutex> lock(cluster_->mutex);
    cluster_->changed.wait(lock, [&] { return !cluster_->barriers.at(at).waits(parity); });
  }
  void bulk_copy(void* to, const void* from, uint32_t bytes, const void* at) override {
    std::memcpy(to, from, bytes);
    cluster_->arrive(at, 0, -int64_t(bytes));
  }
  void copy_later(void* to, const void* from, int bytes) override {
    std::memcpy(to, from, size_t(bytes));
  }
  void copies_wait() override {}

private:
  static std::optional<std::barrier<>::arrival_token>& arrived() {
    static thread_local std::optional<std::barrier<>::arrival_token> token;
    return token;
  }

  std::barrier<> barrier_;
  std::vector<std::unique_ptr<std::barrier<>>> warps_;
  std::vector<uint32_t> exchange_;
  ThreadCluster* cluster_;
};

// Errors cannot be carried out of a block whose other threads wait at a barrier: they end the
// program.
inline void launch_threads(Device& device, int blocks, int threads, size_t shared_bytes, int ranks,
                           const std::function<void()>& kernel) {
  std::vector<std::unique_ptr<ThreadCluster>> clusters;
  std::vector<std::unique_ptr<ThreadBlock>> held;
  std::vector<std::unique_ptr<char, decltype(&std::free)>> memory;
  for (int b = 0; b < blocks; ++b) {
    if (b % ranks == 0) clusters.push_back(std::make_unique<ThreadCluster>(ranks * threads));
    held.push_back(std::make_unique<ThreadBlock>(threads, clusters.back().get()));
    clusters.back()->blocks.push_back(held.back().get());
    memory.emplace_back(
        static_cast<char*>(std::aligned_alloc(128, (shared_bytes + 127) / 128 * 128)), &std::free);
    poison(memory.back().get(), shared_bytes);
    held.back()->shared = memory.back().get();
    held.back()->shared_bytes = shared_bytes;
    held.back()->rank = b % ranks;
  }
  std::vector<std::thread> all;
  for (int b = 0; b < blocks; ++b) {
    for (int i = 0; i < threads; ++i) {
      all.emplace_back([&, b, i, block = held[size_t(b)].get()] {
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

}  // namespace emulator
