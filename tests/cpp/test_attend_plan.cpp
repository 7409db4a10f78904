// How the launches of attend are cut into blocks, for many shapes.
#include "cuda/attend/plan.h"

#include <string>

#include "check.h"

using namespace fastcam;

namespace {

constexpr int kThreads = 256;

template <class F>
void for_shapes(const F& f) {
  for (int64_t batch : {1, 8, 300}) {
    for (int64_t attributes : {1, 4, 40, 700}) {
      for (int64_t channels : {1, 3, 22, 128}) {
        for (int64_t cells : {1, 3, 16, 49, 169, 196, 1581, 50000}) {
          for (int element : {2, 4, 8}) {
            for (bool pool : {false, true}) {
              for (int curves : {1, 8, kCurvesPerLaunch}) {
                f(AttendPlanShape{{batch, attributes, channels, cells},
                                  pool,
                                  channels * cells * element % 16 == 0,
                                  curves,
                                  element,
                                  element == 8 ? 8 : 4,
                                  element == 8 ? 192 : kThreads,
                                  element == 4 ? 4 : 2,
                                  132});
              }
            }
          }
        }
      }
    }
  }
}

TEST(forward_covers_each_row_once_and_fits) {
  for_shapes([](const AttendPlanShape& s) {
    const AttendPlan plan = plan_attend_forward(s);
    const AttendShape& shape = s.shape;
    const int64_t vector = plan.vectors ? 16 / s.element : 1;
    CHECK(plan.shared_bytes <= kSharedBytes);
    CHECK(plan.width >= 1 && plan.groups >= 1 && plan.width * plan.groups <= plan.threads);
    // Channels and attributes are all there, and no block is without any.
    CHECK(int64_t(plan.tiles) * plan.chunk >= shape.channels);
    CHECK(int64_t(plan.tiles - 1) * plan.chunk < shape.channels);
    CHECK(int64_t(plan.splits) * plan.attributes >= shape.attributes);
    CHECK(int64_t(plan.splits - 1) * plan.attributes < shape.attributes);
    CHECK(plan.blocks == shape.batch * plan.tiles * plan.splits);
    // Every block begins and ends on a vector, with at most two rows in one.
    CHECK(plan.tiles == 1 || plan.chunk * shape.cells % vector == 0);
    CHECK(vector == 1 || shape.cells >= vector);
    CHECK(plan.staged_bytes % 16 == 0 && plan.staged_bytes >= plan.width * vector * s.element);
    CHECK(plan.parts_values >= 2 * s.unroll * plan.groups * plan.width);
    CHECK(plan.sums_values >= plan.chunk * plan.attributes * (s.pool ? 1 + s.curves : 1));
  });
}

TEST(backward_covers_each_value_once_and_fits) {
  for_shapes([](const AttendPlanShape& s) {
    const AttendPlan plan = plan_attend_backward(s);
    const AttendShape& shape = s.shape;
    const int64_t vector = plan.vectors ? 16 / s.element : 1;
    const int64_t slots = shape.channels * shape.cells / vector;
    CHECK(plan.shared_bytes <= kSharedBytes);
    CHECK(plan.width % 32 == 0 && plan.width * plan.groups == plan.threads);
    CHECK(plan.groups <= shape.attributes);
    CHECK(int64_t(plan.tiles) * plan.width >= slots &&
          int64_t(plan.tiles - 1) * plan.width < slots);
    CHECK(plan.blocks == shape.batch * plan.tiles);
    CHECK(plan.batch >= 1);
    if (s.pool) {  // rows that a run of vectors can meet, wherever it begins
      CHECK(plan.batch_channels >=
            std::min(shape.channels, (plan.width * vector - 2) / shape.cells + 2));
    }
    // What is staged and the sums of the groups share their memory.
    CHECK(plan.shared_bytes >= plan.staged_bytes + plan.threads * vector * s.acc);
    CHECK(plan.shared_bytes >=
          plan.staged_bytes + int64_t(plan.batch) * (plan.batch_channels + 1) * s.acc);
  });
}

TEST(few_samples_still_make_many_blocks) {
  const AttendPlanShape s{{1, 40, 128, 196}, true, true, 1, 4, 4, kThreads, 4, 132};
  CHECK(plan_attend_forward(s).blocks >= 120);
  CHECK(plan_attend_backward(s).blocks >= 132);
}

TEST(what_is_not_aligned_goes_value_by_value) {
  alignas(16) char memory[32];
  CHECK(in_vectors(memory, 8, 4) && !in_vectors(memory + 4, 8, 4) && !in_vectors(memory, 9, 4));
  CHECK(in_vectors(nullptr, 4, 4));
}

TEST(a_sample_of_too_many_values_is_told) {
  const AttendPlanShape s{{1, 1, 1 << 16, 1 << 15}, true, true, 1, 4, 4, kThreads, 4, 132};
  for (auto* plan : {plan_attend_forward, plan_attend_backward}) {
    std::string message;
    try {
      plan(s);
    } catch (const std::exception& error) {
      message = error.what();
    }
    CHECK(message.find("2^30 values") != std::string::npos);
  }
}

}  // namespace

int main() { return check::run(); }
