// How the one-pass loss is cut into clusters and its backward into blocks.
#include <cstdint>

#include "check.h"
#include "cuda/onepass/plan.h"

using namespace fastcam;

namespace {

constexpr int kLimit = 227 * 1024;

struct Net {
  int64_t channels, cells;
};
constexpr Net kAlexNet{256, 169}, kVgg{512, 196}, kResNet{2048, 49};

int per_pass(int64_t targets) { return targets == 1 ? 1 : targets <= 4 ? 4 : 16; }

PassShape shape(Net net, int64_t batch, int64_t targets, int element = 4, bool last = false,
                int limit = kLimit, int threads = 256) {
  return {batch, targets, net.channels, net.cells,         element, element == 8 ? 8 : 4,
          last,  true,    false,        per_pass(targets), threads, 132,
          limit};
}
int ranks(Net net, int64_t batch, int64_t targets, int element = 4, bool last = false) {
  return plan_pass(shape(net, batch, targets, element, last))->ranks;
}
int threads(Net net, int64_t batch, int64_t targets, int element = 4, bool last = false) {
  const int vector = element == 8 ? 2 : 4;
  return plan_pass_backward(shape(net, batch, targets, element, last, kLimit, 384), vector).threads;
}

}  // namespace

TEST(clusters_are_those_that_were_measured_to_be_fast) {
  for (const int64_t batch : {256, 1024}) {
    CHECK(ranks(kAlexNet, batch, 1) == 2);
    CHECK(ranks(kVgg, batch, 1) == 4 && ranks(kResNet, batch, 1) == 4);
  }
  for (const bool last : {false, true}) {
    CHECK(ranks(kAlexNet, 256, 1, 4, last) == 2 && ranks(kVgg, 256, 1, 4, last) == 4);
    CHECK(ranks(kAlexNet, 256, 1, 2, last) == 1 && ranks(kVgg, 256, 1, 2, last) == 2);
  }
  CHECK(ranks(kAlexNet, 64, 4) == 2 && ranks(kVgg, 64, 4) == 2 && ranks(kResNet, 64, 4) == 8);
  CHECK(ranks(kAlexNet, 64, 16) == 2 && ranks(kVgg, 64, 16) == 8 && ranks(kResNet, 64, 16) == 8);
  for (const int64_t batch : {1, 32}) {
    CHECK(ranks(kVgg, batch, 1) == 8 && ranks(kResNet, batch, 1) == 8);
  }
}

TEST(blocks_of_the_backward_are_those_that_were_measured_to_be_fast) {
  for (const Net net : {kAlexNet, kVgg, kResNet}) CHECK(threads(net, 64, 16) == 128);
  CHECK(threads(kAlexNet, 64, 4) == 192 && threads(kVgg, 64, 4) == 128);
  for (const int64_t batch : {1, 32, 256, 1024}) CHECK(threads(kAlexNet, batch, 1) == 192);
  CHECK(threads(kVgg, 32, 1) == 128 && threads(kResNet, 32, 1) == 128);
  CHECK(threads(kVgg, 256, 1) == 256 && threads(kResNet, 256, 1) == 256);
}

TEST(plans_cover_a_sample_and_fit) {
  for (const int64_t channels : {1, 7, 64, 300, 2048}) {
    for (const int64_t cells : {1, 6, 49, 169, 224}) {
      for (const int64_t batch : {1, 3, 500}) {
        for (const int64_t targets : {1, 4, 40}) {
          for (const int element : {2, 4, 8}) {
            for (const bool last : {false, true}) {
              const PassShape s = shape({channels, cells}, batch, targets, element, last);
              const auto plan = plan_pass(s);
              if (!plan) continue;
              CHECK(plan->ranks >= 1 && plan->ranks <= kPassMaxRanks);
              CHECK(int64_t(plan->chunk) * plan->ranks >= channels);
              CHECK(plan->chunk * element % 16 == 0 && plan->blocks == batch * plan->ranks);
              const int64_t rows = last ? cells : plan->chunk;
              CHECK(plan->at.matrix % 16 == 0 && plan->at.total <= kLimit);
              CHECK(plan->at.matrix + rows * plan->pitch * element <= plan->at.total);
              CHECK(plan->pitch >= (last ? plan->chunk : cells));

              const PassBackwardPlan back = plan_pass_backward(
                  shape({channels, cells}, batch, targets, element, last, 0, 384),
                  element == 8 ? 2 : 4);
              CHECK(back.threads % 32 == 0 && back.threads >= 128 && back.threads <= 384);
              CHECK(int64_t(back.rows) * back.splits >= (last ? cells : channels));
              CHECK(int64_t(back.rows) * (back.splits - 1) < (last ? cells : channels));
              CHECK((last ? channels : cells) % back.vector == 0);
              CHECK(back.shared_bytes <= 48 * 1024 && back.blocks == batch * back.splits);
            }
          }
        }
      }
    }
  }
}

TEST(what_no_cluster_holds_has_no_plan) {
  CHECK(!plan_pass(shape({64, kPassMaxCells + 1}, 1, 1)));
  CHECK(!plan_pass(shape({64, 0}, 1, 1)));
  CHECK(!plan_pass(shape({65536, 224}, 1, 1)));
  CHECK(!plan_pass(shape(kVgg, 1, 1, 4, false, 32 * 1024)));
  CHECK(plan_pass(shape(kVgg, 1, 1, 4, false, 64 * 1024))->ranks == 8);
}

int main() { return check::run(); }
