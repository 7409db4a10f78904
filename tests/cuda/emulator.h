// Runs the CUDA kernels of csrc/cuda on a CPU. Include this first; device.cuh then takes its
// primitives from here. For tests only.
//
// Every CUDA thread is a fiber of one OS thread that runs until it meets a barrier or a shuffle.
// Threads take turns in ascending or descending order, or warps in a drawn one (Options::seed), so
// that a missing barrier shows as a wrong result in one of them. Data races are errors in any order
// (races.h).
// Every access to global memory is checked (inside a registered buffer, aligned to its size; not
// through the read-only cache if the launch writes there, too), and counted as the memory system
// would see it: accesses of a warp from one place in the code belong together, and cost the 32-byte
// sectors they touch.
// A cluster's blocks run together, as far apart as they may be. Copies that go on while a block
// works end as late as they may, when nothing else can run (in a drawn order at any time). A wait
// that nothing ends is an error.
#pragma once

#define FASTCAM_EMULATOR 1
#define FASTCAM_HAS_CLUSTERS 1

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

#define __global__
#define __device__
#define __launch_bounds__(...)
#define FASTCAM_DEVICE inline

namespace emulator {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Dim {
  unsigned x, y, z;
};

// ---- traffic ------------------------------------------------------------------------------------

struct Traffic {
  int64_t loaded_bytes = 0;  // a warp's lanes reading the same bytes at once count once
  int64_t stored_bytes = 0;
  int64_t sectors = 0;          // 32 bytes each
  int64_t sectors_needed = 0;   // what perfectly packed accesses would have touched, as bytes
  int64_t accesses = 0;         // of warps
  int64_t vector_accesses = 0;  // of these, 16 bytes a lane
};

// Accesses of one block between two barriers, grouped into warp accesses: the k-th time that a lane
// passes a place in the code belongs to the k-th time of the other lanes of its warp.
class Counter {
public:
  void record(int warp, int lane, const void* site, uintptr_t address, int bytes, bool is_store) {
    if (warp != warp_ || lane != lane_) {
      warp_ = warp;
      lane_ = lane;
      for (auto& entry : places_) entry.second.next = 0;
      last_site_ = nullptr;
    }
    if (site != last_site_) {
      last_site_ = site;
      last_ = &places_[{warp, site}];
    }
    Place& place = *last_;
    if (place.next == place.used) {
      if (place.used == place.groups.size()) place.groups.emplace_back();
      Group& fresh = place.groups[place.used++];
      fresh.spans.clear();
      fresh.is_store = is_store;
      fresh.vector = bytes == 16;
    }
    Group& group = place.groups[place.next++];
    if (bytes > 0) group.spans.push_back({address, address + uintptr_t(bytes)});
  }
  void flush(Traffic* total) {
    for (auto& entry : places_) {
      for (size_t i = 0; i < entry.second.used; ++i) add(entry.second.groups[i], total);
      entry.second.used = entry.second.next = 0;
    }
    warp_ = lane_ = -1;
    last_site_ = nullptr;
  }

private:
  struct Span {
    uintptr_t begin, end;
  };
  struct Group {
    std::vector<Span> spans;
    bool is_store = false;
    bool vector = false;
  };
  struct Place {
    std::vector<Group> groups;
    size_t used = 0;
    size_t next = 0;
  };
  static void add(Group& group, Traffic* total);

  std::map<std::pair<int, const void*>, Place> places_;
  int warp_ = -1;
  int lane_ = -1;
  const void* last_site_ = nullptr;
  Place* last_ = nullptr;
};

// ---- a launch -----------------------------------------------------------------------------------

// How memory is met. On a GPU load() goes through a cache that does not see the launch's own
// writes.
enum Access : unsigned { kReadOnly = 1, kWritten = 2, kFresh = 4 };

struct Options {
  bool reversed = false;      // threads in descending order, and blocks, too
  unsigned seed = 0;          // of a drawn order; 0: none
  bool count = false;         // the traffic
  bool watch = true;          // data races are errors
  int multiprocessors = 132;  // that launches of the ops are planned for
  int cluster_bytes = 0;      // shared memory of a block of a cluster; 0: no clusters
  std::string kernels{};      // what FASTCAM_CAM_KERNELS would say
  // Run only the first `part` of every `whole` blocks (to count what many equal samples would
  // move).
  int part = 1;
  int whole = 1;
};

// What a launch may touch, how it runs, and what it has moved. One per test.
struct Device {
  Options options;
  Traffic traffic;
  int launches = 0;

  struct Buffer {
    uintptr_t begin, end;
    unsigned uses = 0;  // of the launch that runs: bits of kReadOnly, kWritten
  };

  void add_buffer(const void* data, size_t bytes);
  Buffer& check(const void* p, size_t bytes, const char* what) {
    return check(p, bytes, bytes, what);
  }
  Buffer& check(const void* p, size_t bytes, size_t alignment, const char* what);

  std::vector<Buffer> buffers;
};

class Block;
class Races;

extern Races* races;  // of the launch that runs, or null
void saw_global(const void* p, size_t bytes, bool write, const void* site);
void saw_fence();
void saw_ticket(const void* counter);

// The CUDA thread that the calling fiber is.
struct Thread {
  Device* device = nullptr;
  Block* block = nullptr;
  unsigned index = 0;
  Dim thread_idx{}, block_idx{}, block_dim{};
};
extern thread_local Thread current;

class Block {
public:
  virtual ~Block() = default;
  virtual void barrier() = 0;
  virtual uint32_t shuffle_xor(uint32_t value, int lane_mask) = 0;
  // The cluster, and copies that go on while the block works (csrc/cuda/onepass/cluster.cuh).
  virtual void cluster_arrive() = 0;
  virtual void cluster_wait() = 0;
  virtual Block& of_cluster(int rank) = 0;  // throws if the block has left
  virtual void barrier_init(const void* at, int arrivals) = 0;
  virtual void barrier_init_fence() = 0;
  virtual void barrier_arrive(const void* at, int64_t expected_bytes) = 0;
  virtual void barrier_wait(const void* at, unsigned parity) = 0;
  virtual void bulk_copy(void* to, const void* from, uint32_t bytes, const void* barrier) = 0;
  virtual void copy_later(void* to, const void* from, int bytes) = 0;
  virtual void copies_wait() = 0;

  Counter* counter = nullptr;
  char* shared = nullptr;
  size_t shared_bytes = 0;
  int rank = 0;

  bool is_shared(const void* p, size_t bytes = 1) const {
    const char* at = static_cast<const char*>(p);
    return at >= shared && at + bytes <= shared + shared_bytes;
  }
};

// Shared memory holds NaN in every type until it is written.
inline void poison(char* shared, size_t bytes) { std::memset(shared, 0xff, bytes); }

inline constexpr size_t kPlainSharedBytes = 48 * 1024;
inline constexpr size_t kClusterSharedBytes = 227 * 1024;

// Runs `kernel` once for each CUDA thread, in clusters of `ranks` blocks.
void launch(Device& device, int blocks, int threads, size_t shared_bytes,
            const std::function<void()>& kernel, int ranks = 1,
            size_t shared_limit = kPlainSharedBytes);

// Every access to global memory passes here, with the place in the code that makes it.
inline __attribute__((always_inline)) void access(const void* p, int bytes, Access how,
                                                  const void* site) {
  const Thread& thread = current;
  Device::Buffer& buffer =
      thread.device->check(p, size_t(bytes), how == kWritten ? "store" : "load");
  if (how != kFresh) buffer.uses |= how;
  if (buffer.uses == (kReadOnly | kWritten)) {
    throw Error("load() of memory that the launch writes");
  }
  if (how != kReadOnly && races != nullptr) saw_global(p, size_t(bytes), how == kWritten, site);
  if (Counter* counter = thread.block->counter) {
    counter->record(int(thread.index / 32), int(thread.index % 32), site,
                    reinterpret_cast<uintptr_t>(p), bytes, how == kWritten);
  }
}

inline void no_access(bool is_store, const void* site) {
  const Thread& thread = current;
  if (Counter* counter = thread.block->counter) {
    counter->record(int(thread.index / 32), int(thread.index % 32), site, 0, 0, is_store);
  }
}

// The place in the code: a function that is never inlined knows where it will return to.
template <Access kHow, class T>
__attribute__((noinline)) T load_at(const T* p) {
  access(p, int(sizeof(T)), kHow, __builtin_return_address(0));
  T value;
  std::memcpy(&value, p, sizeof(T));
  return value;
}
template <class T>
__attribute__((noinline)) void store_at(T* p, const T& value) {
  access(p, int(sizeof(T)), kWritten, __builtin_return_address(0));
  std::memcpy(p, &value, sizeof(T));
}

}  // namespace emulator

#define threadIdx (::emulator::current.thread_idx)
#define blockIdx (::emulator::current.block_idx)
#define blockDim (::emulator::current.block_dim)

inline void __syncthreads() { ::emulator::current.block->barrier(); }

#include "storage_conversions.h"

namespace fastcam {

template <class T>
FASTCAM_DEVICE T load(const T* p) {
  return emulator::load_at<emulator::kReadOnly>(p);
}
template <class T>
FASTCAM_DEVICE T load_fresh(const T* p) {
  return emulator::load_at<emulator::kFresh>(p);
}
template <class T>
FASTCAM_DEVICE void store(T* p, T value) {
  emulator::store_at(p, value);
}
// A lane that does without still passes the place.
template <class T>
__attribute__((noinline)) T load_if(bool here, const T* p, T otherwise) {
  if (here) {
    emulator::access(p, int(sizeof(T)), emulator::kReadOnly, __builtin_return_address(0));
    return *p;
  }
  emulator::no_access(false, __builtin_return_address(0));
  return otherwise;
}
template <class T>
__attribute__((noinline)) void store_if(bool here, T* p, T value) {
  if (here) {
    emulator::access(p, int(sizeof(T)), emulator::kWritten, __builtin_return_address(0));
    *p = value;
  } else {
    emulator::no_access(true, __builtin_return_address(0));
  }
}
template <class T>
FASTCAM_DEVICE T load_own(const T* p) {
  return emulator::current.block->is_shared(p) ? *p : emulator::load_at<emulator::kFresh>(p);
}
template <class T>
FASTCAM_DEVICE void store_own(T* p, T value) {
  if (emulator::current.block->is_shared(p)) {
    *p = value;
  } else {
    emulator::store_at(p, value);
  }
}
FASTCAM_DEVICE void* shared_memory() { return emulator::current.block->shared; }
FASTCAM_DEVICE uint32_t shuffle_xor(uint32_t value, int lane_mask) {
  return emulator::current.block->shuffle_xor(value, lane_mask);
}

inline uint32_t warp_max(uint32_t value) {
  for (int mask = 16; mask > 0; mask /= 2) value = std::max(value, shuffle_xor(value, mask));
  return value;
}
inline uint32_t warp_min(uint32_t value) { return ~warp_max(~value); }

// Approximations as far off as the device's may be, up or down as the bits of x have it.
inline float off(float y, float x, float by) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const float moved = y * (((bits * 2654435761u) >> 31) != 0 ? 1 + by : 1 - by);
  return std::fabs(y) < 0x1p-126f ? 0 * y : moved;
}
inline float exp2_near(float x) { return off(std::exp2(x), x, 0x1p-22f); }
inline float log2_near(float x) { return off(std::log2(x), x, 0x1p-22f); }
inline float reciprocal_near(float x) { return off(1 / x, x, 0x1p-23f); }
inline double exp2_near(double x) { return std::exp2(x); }
inline double log2_near(double x) { return std::log2(x); }
inline double reciprocal_near(double x) { return 1 / x; }
inline float copy_sign(float x, float sign) { return std::copysign(x, sign); }
inline double copy_sign(double x, double sign) { return std::copysign(x, sign); }
template <class T>
T opaque(T x) {
  return x;
}
inline int sign_bit(double x) { return std::signbit(x) ? 1 : 0; }

struct CopyBarrier;

inline int cluster_rank() { return emulator::current.block->rank; }
inline void cluster_arrive() { emulator::current.block->cluster_arrive(); }
inline void cluster_wait() { emulator::current.block->cluster_wait(); }
template <class T>
T* in_block(T* p, int rank) {
  emulator::Block& mine = *emulator::current.block;
  if (!mine.is_shared(p, sizeof(T))) throw emulator::Error("no shared memory of the block");
  const auto offset = reinterpret_cast<const char*>(p) - mine.shared;
  return reinterpret_cast<T*>(mine.of_cluster(rank).shared + offset);
}
template <class T>
T load_of_block(const T* p, int rank) {
  return *in_block(p, rank);
}
template <class T>
void store_in_block(T* p, int rank, T value) {
  *in_block(p, rank) = value;
}
inline void barrier_init(CopyBarrier* barrier, int arrivals) {
  emulator::current.block->barrier_init(barrier, arrivals);
}
inline void barrier_init_fence() { emulator::current.block->barrier_init_fence(); }
inline void barrier_arrive_expecting(CopyBarrier* barrier, uint32_t bytes) {
  emulator::current.block->barrier_arrive(barrier, bytes);
}
inline void barrier_wait(CopyBarrier* barrier, uint32_t parity) {
  emulator::current.block->barrier_wait(barrier, parity);
}
inline void copies_follow_writes() { emulator::saw_fence(); }
inline void bulk_copy(void* to, const void* from, uint32_t bytes, CopyBarrier* barrier) {
  emulator::current.block->bulk_copy(to, from, bytes, barrier);
}
template <class T>
__attribute__((noinline)) void copy_later(T* to, const T* from) {
  emulator::access(from, int(sizeof(T)), emulator::kReadOnly, __builtin_return_address(0));
  emulator::current.block->copy_later(to, from, int(sizeof(T)));
}
inline void copies_wait() { emulator::current.block->copies_wait(); }

inline unsigned take_ticket(unsigned* counter) {
  emulator::current.device->check(counter, sizeof(unsigned), "atomic");
  emulator::saw_ticket(counter);
  return (*counter)++;
}

}  // namespace fastcam
