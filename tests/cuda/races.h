// Data races of an emulated launch, whatever the order in which its threads have run: accesses of
// two threads to the same memory, one of which writes, that nothing orders on a GPU. Barriers of a
// block and of a cluster do, mbarriers and tickets, but no shuffle and no warp. What a copy writes
// is there once it has been waited for, and may lie over what threads wrote only after their fence.
//
// A thread's time is its epoch, the barriers of block and cluster at which it has arrived (the same
// ones in all threads of a block), and what it has published since, at mbarriers and tickets.
#pragma once

#include <dlfcn.h>

#include <algorithm>
#include <sstream>

#include "emulator.h"

namespace emulator {

class Races {
public:
  Races(int blocks, int threads)
      : threads_(threads), states_(size_t(blocks) * size_t(threads)), blocks_(size_t(blocks)) {}

  // The first one that was found; empty: none.
  const std::string& first() const { return first_; }

  void block_begins(int block, char* shared, size_t bytes) {
    blocks_[size_t(block)] = {shared, bytes, std::vector<Cell>(bytes / 2 + 1)};
  }
  // Of all threads of a cluster's blocks: nobody may still be at the memory of one that has ended.
  void cluster_ends(int first_block, int ranks) {
    for (int b = first_block; b < first_block + ranks; ++b) {
      Known known;
      for (int i = 0; i < threads_; ++i) known.join(*state(b, i).known);
      for (const Cell& cell : blocks_[size_t(b)].cells) {
        const auto late = [&](const Access& a) { return a.block != b && !knows(known, a); };
        if (cell.write.block >= 0 && late(cell.write)) say("the block has left", cell.write, {});
        for (const Access& read : cell.reads) {
          if (late(read)) say("the block has left", read, {});
        }
      }
      blocks_[size_t(b)] = {};
    }
    of_mbarriers_.clear();
    of_cluster_ = {};
  }

  // ---- accesses, by the calling thread

  void shared(const void* p, size_t bytes, bool write, const void* site) {
    const auto* at = static_cast<const char*>(p);
    const int mine = int(current.block_idx.x);
    const int first = mine - current.block->rank;
    for (int b = first; size_t(b) < blocks_.size() && blocks_[size_t(b)].shared != nullptr; ++b) {
      Memory& memory = blocks_[size_t(b)];
      if (at < memory.shared || at >= memory.shared + memory.bytes) continue;
      const Access access = here(site);
      const Known& known = *state().known;
      if (b != mine && known.epoch_of(b) == 0) say("the block may not have begun", access, {});
      if (bytes <= 16 && (bytes & (bytes - 1)) == 0 && uintptr_t(at) % bytes != 0) {
        say("misaligned", access, {});
      }
      each_cell(p, bytes, b, [&](Cell& cell) { touch(cell, known, access, write); });
      return;
    }
  }
  void global(const void* p, size_t bytes, bool write, const void* site) {
    const Access access = here(site);
    for (size_t i = 0; i < bytes; i += 2) {
      touch(global_[uintptr_t(p) + i], *state().known, access, write);
    }
  }
  // An mbarrier ends `phase` once the copy has.
  void bulk_copy(void* to, size_t bytes, const void* mbarrier, unsigned phase) {
    Access copy = here(nullptr);
    each_cell(to, bytes, int(current.block_idx.x), [&](Cell& cell) {
      const Access& before = cell.write;
      if (before.block >= 0 && before.mbarrier == nullptr &&
          state(before.block, before.thread).fences == before.fences) {
        say("a bulk copy over what was written without a fence", before, copy);
      }
      touch(cell, *state().known, copy, true);
      cell.write.mbarrier = mbarrier;
      cell.write.published = int(phase);
    });
  }
  void small_copy_begins(void* to, size_t bytes, const void* site) {
    const Access copy = here(site);
    each_cell(to, bytes, int(current.block_idx.x), [&](Cell& cell) {
      touch(cell, *state().known, copy, true);
      cell.write.pending = true;
    });
  }
  void small_copy_ends(void* to, size_t bytes) {
    each_cell(to, bytes, int(current.block_idx.x), [&](Cell& cell) {
      if (cell.write.pending) cell.write = here(cell.write.site);
    });
  }
  void fence() { ++state().fences; }

  // ---- what orders them

  void block_barrier(int block) {
    auto known = std::make_shared<Known>();
    for (int i = 0; i < threads_; ++i) {
      const State& s = state(block, i);
      if (i == 0 || s.known != state(block, i - 1).known) known->join(*s.known);
    }
    known->add(block, state(block, 0).epoch + 1);
    for (int i = 0; i < threads_; ++i) {
      State& s = state(block, i);
      s.known = known;
      ++s.epoch;
      s.published = 0;
    }
  }
  void cluster_arrive(bool last) {
    State& s = state();
    if (of_cluster_.next == nullptr) of_cluster_.next = std::make_shared<Known>();
    if (of_cluster_.joined != s.known) of_cluster_.next->join(*s.known);
    of_cluster_.joined = s.known;
    of_cluster_.next->add(int(current.block_idx.x), ++s.epoch);
    s.published = 0;
    if (last) of_cluster_ = {nullptr, nullptr, of_cluster_.next};
  }
  void cluster_wait() { learn(of_cluster_.ended); }
  void mbarrier_arrive(const void* at) { publish(of_mbarriers_[at].next); }
  void mbarrier_ends(const void* at, unsigned phase) {
    auto ended = std::make_shared<Known>(of_mbarriers_[at].next);
    ended->copies[at] = phase;
    of_mbarriers_[at].ended = ended;
  }
  void mbarrier_wait(const void* at) { learn(of_mbarriers_[at].ended); }
  void ticket(const void* at) {
    publish(of_tickets_[at]);
    learn(std::make_shared<Known>(of_tickets_[at]));
  }

private:
  static constexpr int kSeveral = -1;  // threads

  struct Access {
    int block = -1;  // of the launch; none yet
    int thread = 0;  // of the block
    int epoch = 0;
    int published = 0;               // or of a bulk copy: the phase of
    const void* mbarrier = nullptr;  // the one that counts it
    unsigned fences = 0;
    bool pending = false;  // a small copy that its thread has not waited for
    const void* site = nullptr;
  };
  struct Cell {  // of two bytes; one where values of one byte lie
    Access write;
    std::vector<Access> reads;  // one for each block
  };
  struct Memory {
    char* shared = nullptr;
    size_t bytes = 0;
    std::vector<Cell> cells;
  };

  // What has happened before something, times counted from 1.
  struct Known {
    std::vector<int> epochs;                          // of all threads of a block
    std::map<size_t, std::pair<int, int>> published;  // of a thread, beyond that
    std::map<const void*, unsigned> copies;           // phases of an mbarrier

    int epoch_of(int block) const {
      return size_t(block) < epochs.size() ? epochs[size_t(block)] : 0;
    }
    void add(int block, int epoch) {
      if (epochs.size() <= size_t(block)) epochs.resize(size_t(block) + 1, 0);
      epochs[size_t(block)] = std::max(epochs[size_t(block)], epoch);
    }
    void join(const Known& other) {
      for (size_t b = 0; b < other.epochs.size(); ++b) add(int(b), other.epochs[b]);
      for (const auto& [thread, time] : other.published) {
        published[thread] = std::max(published[thread], time);
      }
      for (const auto& [mbarrier, phase] : other.copies) {
        copies[mbarrier] = std::max(copies[mbarrier], phase);
      }
    }
  };
  using KnownPointer = std::shared_ptr<const Known>;  // threads of a block share theirs
  struct State {
    KnownPointer known = std::make_shared<Known>();
    int epoch = 0;
    int published = 0;
    unsigned fences = 0;
  };
  struct OfMbarrier {
    Known next;
    KnownPointer ended = std::make_shared<Known>();
  };
  struct OfCluster {
    std::shared_ptr<Known> next;
    KnownPointer joined;  // what the last one to arrive knew
    KnownPointer ended;
  };

  size_t index(int block, int thread) const {
    return size_t(block) * size_t(threads_) + size_t(thread);
  }
  State& state(int block, int thread) { return states_[index(block, thread)]; }
  State& state() { return state(int(current.block_idx.x), int(current.index)); }
  Access here(const void* site) {
    const State& s = state();
    return {int(current.block_idx.x),
            int(current.index),
            s.epoch,
            s.published,
            nullptr,
            s.fences,
            false,
            site};
  }
  template <class F>
  void each_cell(const void* p, size_t bytes, int block, const F& f) {
    Memory& memory = blocks_[size_t(block)];
    const size_t begin = size_t(static_cast<const char*>(p) - memory.shared);
    for (size_t i = begin / 2; i < (begin + bytes + 1) / 2 && i < memory.cells.size(); ++i) {
      f(memory.cells[i]);
    }
  }

  void publish(Known& to) {
    State& s = state();
    to.join(*s.known);
    to.published[index(int(current.block_idx.x), int(current.index))] = {s.epoch, ++s.published};
  }
  void learn(const KnownPointer& what) {
    State& s = state();
    if (s.known != before_ || what != learnt_) {  // else as the thread before
      before_ = s.known;
      learnt_ = what;
      auto after = std::make_shared<Known>(*s.known);
      after->join(*what);
      after_ = after;
    }
    s.known = after_;
  }
  bool knows(const Known& known, const Access& a) const {
    if (a.pending) return false;
    if (a.mbarrier != nullptr) {
      const auto found = known.copies.find(a.mbarrier);
      return found != known.copies.end() && found->second > unsigned(a.published);
    }
    if (known.epoch_of(a.block) > a.epoch) return true;
    if (a.thread == kSeveral) return false;
    const auto found = known.published.find(index(a.block, a.thread));
    return found != known.published.end() && found->second > std::pair(a.epoch, a.published);
  }

  void touch(Cell& cell, const Known& known, const Access& access, bool write) {
    const auto other = [&](const Access& a) {
      return a.block != access.block || a.thread != access.thread || a.pending ||
             a.mbarrier != nullptr;
    };
    if (cell.write.block >= 0 && other(cell.write) && !knows(known, cell.write)) {
      say(write ? "write after write" : "read after write", cell.write, access);
    }
    if (write) {
      for (const Access& read : cell.reads) {
        if (other(read) && !knows(known, read)) say("write after read", read, access);
      }
      cell.reads.clear();
      cell.write = access;
      return;
    }
    const auto read = std::find_if(cell.reads.begin(), cell.reads.end(),
                                   [&](const Access& r) { return r.block == access.block; });
    if (read == cell.reads.end()) {
      cell.reads.push_back(access);
    } else if (read->epoch == access.epoch && read->thread != access.thread) {
      read->thread = kSeveral;
    } else {
      *read = access;
    }
  }

  // Places are offsets for addr2line -Cife.
  void say(const char* what, const Access& a, const Access& b) {
    if (!first_.empty()) return;
    std::ostringstream text;
    text << "race: " << what;
    for (const Access& access : {a, b}) {
      if (access.block < 0) continue;
      text << "; block " << access.block << " thread " << access.thread;
      Dl_info info{};
      if (access.site != nullptr && dladdr(access.site, &info) != 0) {
        text << " at 0x" << std::hex << uintptr_t(access.site) - uintptr_t(info.dli_fbase) - 1
             << std::dec;
      }
    }
    first_ = text.str();
  }

  int threads_;
  std::vector<State> states_;
  std::vector<Memory> blocks_;
  std::unordered_map<uintptr_t, Cell> global_;
  std::map<const void*, OfMbarrier> of_mbarriers_;
  std::map<const void*, Known> of_tickets_;
  OfCluster of_cluster_;
  KnownPointer before_, learnt_, after_;
  std::string first_;
};

}  // namespace emulator
