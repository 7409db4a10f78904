// How the launches of attend are cut into blocks, for many shapes.
#include "cuda/attend/plan.h"

#include <cmath>
#include <string>

#include "check.h"

using namespace fastcam;

namespace {

template <class F>
void for_shapes(const F& f) {
  for (int64_t batch : {1, 8, 300}) {
    for (int64_t attributes : {1, 4, 40, 700}) {
      for (int64_t channels : {1, 3, 22, 128}) {
        for (int64_t cells : {1, 3, 16, 49, 169, 196, 1581, 50000}) {
          for (int element : {2, 4, 8}) {
            for (int results : {0, 1, 8, kCurvesPerLaunch}) {
              f(AttendPlanShape{{batch, attributes, channels, cells},
                                results,
                                1 + (results == 0),
                                element,
                                element == 8 ? 8 : 4,
                                132,
                                3});
            }
          }
        }
      }
    }
  }
}

// A row's pieces fit into a warp's registers wherever they begin in a sector.
void check_pieces(const AttendPlanShape& s, const AttendPlan& plan) {
  const int rounds = plan.long_rows ? kLongRounds : kShortRounds;
  CHECK(plan.piece >= 1 && plan.piece <= s.shape.cells);
  CHECK(plan.piece + kSectorBytes / s.element - 1 <= kWarp * rounds);
  CHECK(plan.warps >= 1 && plan.warps <= kAttendWarps);
  CHECK(plan.shared_bytes <= kSharedBytes);
}

TEST(forward_covers_each_row_once_and_fits) {
  for_shapes([](const AttendPlanShape& s) {
    const AttendPlan plan = plan_attend_forward(s);
    const AttendShape& shape = s.shape;
    check_pieces(s, plan);
    // Channels and attributes are all there, and no block is without any.
    CHECK(int64_t(plan.tiles) * plan.warps >= shape.channels);
    CHECK(int64_t(plan.tiles - 1) * plan.warps < shape.channels);
    CHECK(int64_t(plan.splits) * plan.attributes >= shape.attributes);
    CHECK(int64_t(plan.splits - 1) * plan.attributes < shape.attributes);
    CHECK(plan.blocks == shape.batch * plan.tiles * plan.splits);
    CHECK(plan.shared_bytes >= 16 + (1 + s.results) * plan.attributes * plan.warps * s.acc);
    CHECK(plan.tickets_bytes >= 4 * shape.batch * plan.splits && plan.tickets_bytes % 256 == 0);
    CHECK(plan.workspace_bytes >=
          plan.tickets_bytes + shape.batch * plan.tiles * shape.attributes * s.acc);
  });
}

TEST(backward_covers_each_value_once_and_fits) {
  for_shapes([](const AttendPlanShape& s) {
    const AttendPlan plan = plan_attend_backward(s);
    const AttendShape& shape = s.shape;
    check_pieces(s, plan);
    CHECK(plan.members >= 1 && plan.members <= shape.attributes);
    CHECK(plan.warps % plan.members == 0);
    const int64_t rows = plan.warps / plan.members;
    CHECK(plan.tiles * rows >= shape.channels && (plan.tiles - 1) * rows < shape.channels);
    CHECK(plan.blocks == shape.batch * plan.tiles);
  });
}

TEST(the_attention_networks_blocks_fill_an_h100) {
  for (int64_t batch : {32, 64, 128, 256}) {
    const AttendPlan plan = plan_attend_forward({{batch, 40, 128, 196}, 1, 1, 4, 4, 132, 4});
    const double rounds = double(plan.blocks) / (132 * 4);
    CHECK(rounds / std::ceil(rounds) > 0.9);
  }
}

TEST(more_than_32_bits_of_indices_are_refused) {
  for (const auto& plan : {plan_attend_forward, plan_attend_backward}) {
    std::string message;
    try {
      plan({{1, 4, int64_t(1) << 16, int64_t(1) << 15}, 1, 1, 4, 4, 132, 4});
    } catch (const std::exception& error) {
      message = error.what();
    }
    CHECK(message.find("2^30 values") != std::string::npos);
  }
}

}  // namespace

int main() { return check::run(); }
