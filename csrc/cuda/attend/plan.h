// How the launches of tone_curve and attend are cut into blocks. Plain C++, as cuda/cam/plan.h.
#pragma once

#include "cuda/plan.h"

namespace fastcam {

inline constexpr int kAttendWarps = 8;  // of a block, at most
// Blocks that share a multiprocessor's registers: 64 for a thread, 80 where several arrays are
// held, all in double.
template <class Acc>
inline constexpr int kAttendBlocks = sizeof(Acc) == 4 ? 4 : 1;
template <class Acc>
inline constexpr int kAttendFewBlocks = sizeof(Acc) == 4 ? 3 : 1;

// A warp has a row (a channel), or a piece of a long one, kRounds cells of it in each lane's
// registers: F, and L of a few attributes at once, one after the other.
inline constexpr int kLongRounds = 7;  // 14x14 cells, and up to 28 more
inline constexpr int kShortRounds = 2;
template <bool kLongRows>
inline constexpr int kRoundsOf = kLongRows ? kLongRounds : kShortRounds;
// Attributes at once; half as many where dZ is read with L.
template <int kRounds, bool kWithGradients = false>
inline constexpr int kAtOnce = (kRounds == kLongRounds ? 2 : 4) / (kWithGradients ? 2 : 1);

// Curves of one launch, a kernel argument. More take more launches.
inline constexpr int kCurvesPerLaunch = 64;

struct AttendPlan {
  bool long_rows;  // kLongRounds
  int piece;       // cells of a row that are taken at a time
  int warps;
  int tiles;  // blocks along the channels
  int64_t blocks;

  // forward
  int attributes;         // of a block
  int splits;             // blocks along the attributes
  int64_t tickets_bytes;  // of the workspace, zeroed before the launch; first in it
  int64_t workspace_bytes;

  // backward
  int members;  // warps that share the attributes of a row

  int shared_bytes;
};

struct AttendPlanShape {
  AttendShape shape;
  int results;  // forward: for each row, the curves if pooled
  int copies;   // arrays of L's size that are moved
  int element;
  int acc;
  int multiprocessors;
  int blocks;  // that a multiprocessor holds
};

inline AttendPlan attend_pieces(const AttendPlanShape& s) {
  const AttendShape& shape = s.shape;
  if (shape.channels * shape.cells > INT32_MAX / 2 ||
      shape.attributes * shape.channels > INT32_MAX) {
    throw std::runtime_error("fastcam: attend on a sample of more than 2^30 values");
  }
  AttendPlan plan{};
  // Lanes begin at a whole sector before the row.
  const int64_t spare = kSectorBytes / s.element - 1;
  plan.long_rows = shape.cells > kWarp * kShortRounds - spare;
  const int64_t most = kWarp * (plan.long_rows ? kLongRounds : kShortRounds) - spare;
  plan.piece = int(ceil_div(shape.cells, ceil_div(shape.cells, most)));
  return plan;
}

// Forward: a warp has a channel. The attributes are cut, too, if blocks are few or do not fill
// their last round on the device; each part reads F again: at most 4 % of the bytes.
inline AttendPlan plan_attend_forward(const AttendPlanShape& s) {
  AttendPlan plan = attend_pieces(s);
  const AttendShape& shape = s.shape;
  const int64_t K = shape.attributes;
  plan.warps = int(std::min<int64_t>(kAttendWarps, shape.channels));
  plan.tiles = int(ceil_div(shape.channels, plan.warps));

  const int64_t tiles = shape.batch * plan.tiles;
  const int64_t slots = int64_t(s.multiprocessors) * s.blocks;
  const auto filled = [&](int64_t splits) {
    const int64_t blocks = tiles * splits;
    return double(blocks) / double(round_up(blocks, slots));
  };
  int64_t splits = 1;
  const int64_t most = std::min(K, 1 + 4 * (K * s.copies + 1) / 100);
  for (int64_t more = 2; more <= most; ++more) {
    if (filled(more) > 1.05 * filled(splits)) splits = more;
  }
  // The sums of a block's rows and of their masks are kept in shared memory.
  const int64_t each = int64_t(1 + s.results) * plan.warps * s.acc;
  const int64_t room = (kSharedBytes - 16) / each;
  splits = std::max(splits, ceil_div(K, room));
  plan.attributes = int(ceil_div(K, splits));
  plan.splits = int(ceil_div(K, plan.attributes));
  plan.blocks = tiles * plan.splits;
  plan.shared_bytes = int(16 + plan.attributes * each);
  plan.tickets_bytes = round_up(shape.batch * plan.splits * 4, kWorkspaceAlignment);
  plan.workspace_bytes = plan.tickets_bytes + tiles * K * s.acc;
  return plan;
}

// Backward: the gradient of F is a sum over the attributes, kept in registers; if rows are few,
// several warps of a block (members) share the attributes of a row.
inline AttendPlan plan_attend_backward(const AttendPlanShape& s) {
  AttendPlan plan = attend_pieces(s);
  const AttendShape& shape = s.shape;
  plan.members = 1;
  while (plan.members < 4 && shape.batch * shape.channels * plan.members < 16 * s.multiprocessors &&
         2 * plan.members <= shape.attributes) {
    plan.members *= 2;
  }
  const int64_t rows = std::min<int64_t>(kAttendWarps / plan.members, shape.channels);
  plan.warps = int(rows) * plan.members;
  plan.tiles = int(ceil_div(shape.channels, rows));
  plan.blocks = shape.batch * plan.tiles;
  const int rounds = plan.long_rows ? kLongRounds : kShortRounds;
  plan.shared_bytes = plan.members == 1 ? 0 : plan.warps * rounds * kWarp * s.acc;
  return plan;
}

}  // namespace fastcam
