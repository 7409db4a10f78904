// How the one-pass loss is cut into clusters and its backward into blocks.
#include <cstdint>
#include <utility>

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

constexpr int64_t grad_cells(int64_t cells) { return cells == 169 ? 36 : 49; }

PassShape shape(Net net, int64_t batch, int64_t targets, int element = 4, bool last = false,
                int limit = kLimit) {
  PassShape s{};
  s.batch = batch;
  s.targets = targets;
  s.channels = net.channels;
  s.cells = net.cells;
  s.element = s.grad_element = element;
  s.acc = element == 8 ? 8 : 4;
  s.channels_last = s.grad_channels_last = last;
  s.aligned = s.grad_aligned = true;
  s.per_pass = per_pass(targets);
  s.threads = pass_threads(s.acc, s.per_pass);
  s.multiprocessors = 132;
  s.shared_limit = limit;
  s.grad_cells = grad_cells(net.cells);
  return s;
}
int ranks(Net net, int64_t batch, int64_t targets, int element = 4, bool last = false) {
  return plan_pass(shape(net, batch, targets, element, last))->ranks;
}
PassBackwardPlan backward(Net net, int64_t batch, int64_t targets, int element = 4,
                          bool last = false) {
  PassShape s = shape(net, batch, targets, element, last);
  s.threads = 256;
  return plan_pass_backward(s, element == 8 ? 2 : 4);
}

}  // namespace

TEST(clusters_are_those_that_were_measured_to_be_fast) {
  for (const int64_t batch : {256, 1024}) {
    CHECK(ranks(kAlexNet, batch, 1) == 2 && ranks(kVgg, batch, 1) == 8);
    CHECK(ranks(kResNet, batch, 1) == 8);
    CHECK(ranks(kAlexNet, batch, 1, 2) == 1 && ranks(kVgg, batch, 1, 2) == 4);
    CHECK(ranks(kResNet, batch, 1, 2) == 4);
  }
  CHECK(ranks(kAlexNet, 64, 4) == 2 && ranks(kVgg, 64, 4) == 4 && ranks(kResNet, 64, 4) == 8);
  CHECK(ranks(kAlexNet, 64, 16) == 2 && ranks(kVgg, 64, 16) == 4 && ranks(kResNet, 64, 16) == 8);
  CHECK(ranks(kAlexNet, 32, 1) == 4 && ranks(kVgg, 32, 1) == 8 && ranks(kResNet, 32, 1) == 8);
  for (const Net net : {kAlexNet, kVgg, kResNet}) CHECK(ranks(net, 1, 1) == 8);
}

TEST(two_blocks_of_one_target_share_a_multiprocessor_on_any_gpu) {
  for (const int kilobytes : {227, 99}) {  // Hopper; Blackwell of workstations
    for (const Net net : {Net{256, 169}, Net{512, 49}, Net{576, 49}}) {
      for (const int element : {2, 4}) {
        const auto plan = plan_pass(shape(net, 256, 1, element, false, kilobytes * 1024));
        CHECK(2 * (plan->at.total + 1024) <= (kilobytes + 1) * 1024);
      }
    }
  }
}

TEST(several_targets_have_some_of_d_on_its_way) {
  for (const Net net : {kAlexNet, kVgg, kResNet}) {
    for (const int64_t targets : {4, 16}) {
      CHECK(plan_pass(shape(net, 64, targets))->log2_stages >= 1);
      CHECK(plan_pass(shape(net, 64, targets))->rows_adjoin);
    }
  }
  CHECK(plan_pass(shape(kAlexNet, 64, 16))->log2_stages == 2);
}

TEST(a_ring_of_stages_takes_the_place_of_a_matrix_that_is_copied_later) {
  const auto plan = [](Net net, int64_t targets) {
    PassShape s = shape(net, 64, targets);
    s.ring = true;
    return *plan_pass(s);
  };
  for (const Net net : {kAlexNet, kVgg, kResNet}) {
    for (const int64_t targets : {4, 16}) {
      const PassPlan p = plan(net, targets);
      CHECK(p.ring && p.at.gradients < p.at.matrix && p.log2_together < p.log2_stages);
      CHECK(p.at.partial == p.at.grad_map);
    }
    CHECK(!plan(net, 1).ring && !plan(net, 17).ring);
    CHECK(plan(net, 17).log2_stages <= kPassLog2Stages);
  }
  CHECK(plan(kVgg, 4).blocks <= 132);  // at once, on one block a multiprocessor
  CHECK(plan(kAlexNet, 16).log2_stages == 3 && plan(kVgg, 16).log2_stages == 3);
}

TEST(blocks_of_the_backward_are_those_that_were_measured_to_be_fast) {
  CHECK(backward(kAlexNet, 64, 16).threads == 128 && backward(kAlexNet, 64, 16).rows == 32);
  CHECK(backward(kVgg, 64, 16).threads == 256 && backward(kResNet, 64, 16).threads == 256);
  CHECK(backward(kAlexNet, 64, 4).threads == 192 && backward(kVgg, 32, 1).threads == 128);
  for (const int64_t batch : {1, 32, 256, 1024}) {
    CHECK(backward(kAlexNet, batch, 1).threads == 192);
    CHECK(backward(kAlexNet, batch, 1).column_stride > 0);
    CHECK(backward(kVgg, batch, 1).column_stride == 0);
  }
  CHECK(backward(kVgg, 256, 1).threads == 256);
}

TEST(plans_cover_a_sample_and_fit) {
  for (const int64_t channels : {1, 7, 64, 132, 300, 400, 912, 2048, 2208}) {
    for (const int64_t cells : {1, 6, 49, 169, 224, 784}) {
      for (const int64_t batch : {1, 3, 500}) {
        for (const int64_t targets : {1, 4, 40}) {
          for (const int element : {2, 4, 8}) {
            for (const auto& [last, ring] :
                 {std::pair{false, false}, {false, true}, {true, false}, {true, true}}) {
              PassShape s = shape({channels, cells}, batch, targets, element, last);
              s.ring = ring;
              const auto plan = plan_pass(s);
              if (!plan) continue;
              CHECK(plan->ranks >= 1 && plan->ranks <= kPassMaxRanks);
              CHECK(int64_t(plan->chunk) * plan->ranks >= channels);
              CHECK(plan->chunk * element % 16 == 0 && plan->blocks == batch * plan->ranks);
              const int64_t rows = last ? cells : plan->chunk;
              CHECK(plan->at.matrix % 16 == 0 && plan->at.total <= kLimit);
              CHECK(plan->at.matrix + rows * plan->a.pitch * element <= plan->at.total);
              CHECK(plan->a.pitch >= (last ? plan->chunk : cells));
              const int64_t grads = (last ? s.grad_cells : plan->chunk) * plan->d.pitch * element;
              CHECK(plan->at.stage >= grads && plan->at.stage % 16 == 0);
              CHECK(plan->at.gradients + (int64_t(plan->at.stage) << plan->log2_stages) <=
                    (plan->ring ? plan->at.total : plan->at.matrix));
              // What the kernels share, of all channels and of a last block's fewer ones.
              const int both = plan->chunk << plan->log2_together;
              const int own = pass_columns(s.per_pass);
              const int64_t partials =
                  (plan->ring ? plan->at.regions : plan->at.sums) - int64_t(plan->at.partial);
              const int64_t halves = s.per_pass > 1 ? 2 : 1;
              CHECK(halves * both * s.acc * pass_groups(plan->threads, both, 1) <= partials);
              for (const int count : {plan->chunk, int(channels % plan->chunk), int(cells)}) {
                const int64_t sums =
                    int64_t(pass_groups(plan->threads, count, own)) * count * s.per_pass * s.acc;
                CHECK(plan->at.sums + sums <= plan->at.matrix);
                if (count == cells || (plan->rows_adjoin && plan->log2_together > 0)) continue;
                const int64_t part = int64_t(pass_groups(plan->threads, count, 1)) * count * s.acc;
                CHECK(halves * (part << plan->log2_together) <= partials);
              }
              CHECK(plan->threads == pass_threads(s.acc, s.per_pass));
              CHECK(plan->at.scratch + kPassReductions * pass_reduction_bytes(plan->threads) <=
                    (plan->ring ? plan->at.sums : plan->at.partial));
              CHECK(plan->teams >= 1 && plan->teams * plan->team_warps * 32 <= plan->threads);

              const auto back = backward({channels, cells}, batch, targets, element, last);
              CHECK(back.threads % 32 == 0 && back.threads >= 128 && back.threads <= 256);
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

TEST(a_backward_of_too_many_targets_is_refused) {
  const auto refused = [](int64_t targets, int element) {
    try {
      CHECK(backward(kAlexNet, 2, targets, element).shared_bytes <= kSharedBytes);
    } catch (const std::runtime_error&) {
      return true;
    }
    return false;
  };
  // A scale and a row's factor of every target are in shared memory.
  CHECK(!refused(6144, 4) && refused(6145, 4) && refused(6200, 2) && refused(1 << 28, 4));
  CHECK(!refused(3072, 8) && refused(3073, 8) && refused(4000, 8));
}

TEST(what_no_cluster_holds_has_no_plan) {
  CHECK(!plan_pass(shape({64, 0}, 1, 1)));
  CHECK(!plan_pass(shape({65536, 224}, 1, 1)));
  CHECK(!plan_pass(shape(kVgg, 1, 1, 4, false, 64 * 1024)));
  CHECK(plan_pass(shape(kVgg, 1, 1, 4, false, 72 * 1024))->ranks == 8);
}

int main() { return check::run(); }
