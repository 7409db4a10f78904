// How the CUDA launches are cut into blocks: plain C++, so that no GPU is needed to check it.
#include "cuda/cam/plan.h"

#include <string>

#include "check.h"

using namespace fastcam;

namespace {

constexpr int kMultiprocessors = 132;

CamShape shape_of(int64_t batch, int64_t targets, int64_t channels, int64_t cells,
                  int64_t grad_cells, int element, bool channels_last = false) {
  const bool one = targets == 1;
  return {batch,
          targets,
          channels,
          cells,
          grad_cells,
          element,
          element,
          4,
          channels_last,
          one ? 1 : kTargetsPerBlock,
          one ? kMaxChunk<float, 1> : kMaxChunk<float, kTargetsPerBlock>,
          kMultiprocessors};
}

void check_plan(const CamShape& s, const CamPlan& plan, int64_t roles) {
  // Each channel has one block, and no block is without channels.
  CHECK(plan.splits >= 1 && plan.chunk >= 1 && plan.chunk <= s.max_chunk);
  CHECK(int64_t(plan.splits) * plan.chunk >= s.channels);
  CHECK(int64_t(plan.splits - 1) * plan.chunk < std::max<int64_t>(1, s.channels));
  CHECK(plan.blocks == s.batch * roles * plan.splits);
  CHECK(plan.threads % 32 == 0 && plan.threads >= 32 && plan.threads <= kCamThreads);
  CHECK(plan.shared_bytes <= kSharedBytes);
  if (plan.splits > 1) CHECK(plan.chunk * s.element % 32 == 0);  // whole sectors, channels last
}

TEST(any_shape) {
  check::Random random(1);
  const auto upto = [&](int64_t most) { return 1 + int64_t(random.uniform() * double(most)); };
  for (int i = 0; i < 20000; ++i) {
    CamShape s = shape_of(upto(i % 2 ? 8 : 600), upto(9), i % 50 ? upto(4096) : 0, upto(900),
                          upto(900), i % 3 ? 4 : 2, i % 5 < 2);
    check::where = "N " + std::to_string(s.batch) + ", T " + std::to_string(s.targets) + ", C " +
                   std::to_string(s.channels) + ", P " + std::to_string(s.cells) + ", Q " +
                   std::to_string(s.grad_cells);
    const int64_t target_blocks = ceil_div(s.targets, s.per_block);
    const CamPlan forward = plan_forward(s);
    check_plan(s, forward, target_blocks);
    CHECK(forward.parts_bytes ==
          (forward.splits > 1 ? forward.blocks * s.per_block * s.cells * s.acc : 0));
    s.grad_cells = 0;
    const CamPlan backward = plan_backward(s, true, true);
    check_plan(s, backward, 1);
    CHECK(backward.tile >= 1 && backward.tile <= s.cells && backward.map_stride > backward.tile);
    CHECK(backward.held >= s.per_block && backward.held % s.per_block == 0);
  }
}

struct Network {
  const char* name;
  int64_t channels, cells, grad_cells;
};
const Network kNetworks[] = {
    {"AlexNet", 256, 169, 36}, {"VGG-16", 512, 196, 196}, {"ResNet-50", 2048, 49, 49}};

TEST(few_samples_are_split_as_far_as_the_traffic_allows) {
  for (const Network& net : kNetworks) {
    for (int element : {4, 2}) {
      for (int64_t batch : {1, 2, 8, 64, 256, 1024}) {
        check::where = std::string(net.name) + ", N " + std::to_string(batch) + ", " +
                       std::to_string(element) + " bytes";
        const CamShape s = shape_of(batch, 1, net.channels, net.cells, net.grad_cells, element);
        const CamPlan plan = plan_forward(s);
        const bool fills = plan.blocks >= kMultiprocessors;
        const double parts = plan.splits > 1 ? 2.0 * double(net.cells) * 4 * plan.splits : 0;
        const double share = parts / double(forward_bytes(s));
        CHECK(share <= 0.04);
        CHECK(fills || share > 0.02);  // no room for twice the blocks
        CHECK(batch < 64 || fills);
      }
    }
  }
}

TEST(many_samples_are_not_split) {
  for (const Network& net : kNetworks) {
    const CamShape s = shape_of(1024, 1, net.channels, net.cells, net.grad_cells, 4);
    const CamPlan plan = plan_forward(s);
    CHECK(plan.splits == ceil_div(net.channels, s.max_chunk));
  }
}

TEST(what_cannot_be_indexed_is_refused) {
  for (const CamShape& s :
       {shape_of(1, 1, 2, int64_t(1) << 26, 1, 4), shape_of(1, 1, int64_t(1) << 20, 4096, 1, 4)}) {
    bool refused = false;
    try {
      plan_forward(s);
    } catch (const std::runtime_error&) {
      refused = true;
    }
    CHECK(refused);
  }
}

TEST(a_backward_of_nothing_is_refused) {
  const auto refused = [](int64_t targets, bool need_activations, bool need_gradients) {
    try {
      plan_backward(shape_of(2, targets, 8, 9, 9, 4), need_activations, need_gradients);
    } catch (const std::runtime_error&) {
      return true;
    }
    return false;
  };
  CHECK(refused(20000, true, true));  // what a target needs of shared memory
  CHECK(refused(0, false, true) && refused(0, true, true) && refused(1, false, false));
  CHECK(!refused(1, false, true));
}

}  // namespace

int main() { return check::run(); }
