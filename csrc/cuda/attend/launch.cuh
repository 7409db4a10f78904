// tone_curve and attend, from run-time arguments to a kernel; as cuda/cam/launch.cuh.
#pragma once

#include "cuda/attend/backward_kernel.cuh"
#include "cuda/attend/forward_kernel.cuh"
#include "cuda/attend/tone_curve_kernel.cuh"
#include "cuda/launch_site.cuh"

namespace fastcam {

template <class S, bool kBackward>
void launch_tone_curve_of(const ToneCurveOp& op, const LaunchSite& site) {
  const auto offset = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % kVectorBytes; };
  const size_t misalignment = offset(op.out);
  ToneWork work{};
  work.vectors = offset(op.mask) == misalignment &&
                 (!kBackward || offset(op.grad) == misalignment) && misalignment % sizeof(S) == 0;
  work.misalignment = work.vectors ? int(misalignment / sizeof(S)) : 0;
  const int64_t slots = ceil_div(op.count + work.misalignment, work.vectors ? kVectorOf<S> : 1);
  FASTCAM_LAUNCH((tone_curve_kernel<S, kBackward>),
                 grid_of(ceil_div(slots, kToneThreads * kToneUnroll<kBackward>)), kToneThreads, 0,
                 site.stream, op, work);
}

// Forward without `grad`, backward with it.
// A template, so that a file compiles the kernels that it launches and no others.
template <class Site>
void launch_tone_curve(const ToneCurveOp& op, ScalarKind kind, const Site& site) {
  with_storage(kind, [&](auto s) {
    with_flag(op.grad != nullptr, [&](auto backward) {
      launch_tone_curve_of<decltype(s), decltype(backward)::value>(op, site);
    });
  });
}

template <class S, bool kPool, bool kSeveral>
void launch_attend_forward_as(const AttendForward& op, const AttendForwardWork<AccOf<S>>& work,
                              const LaunchSite& site) {
  const AttendPlan& plan = work.plan;
  with_flag(plan.long_rows, [&](auto long_rows) {
    constexpr int kRounds = kRoundsOf<decltype(long_rows)::value>;
    FASTCAM_LAUNCH((attend_forward_kernel<S, kPool, kSeveral, kRounds>), grid_of(plan.blocks),
                   plan.warps * kWarp, plan.shared_bytes, site.stream, op, work);
  });
}

template <class S, bool kPool>
void launch_attend_forward_of(const AttendForward& op, const LaunchSite& site) {
  // For every 64 curves (in practice: for all) L is read once.
  for (int64_t first = 0; first < op.curve_count; first += kCurvesPerLaunch) {
    AttendForwardWork<AccOf<S>> work{};
    work.first_curve = int(first);
    work.curves = int(std::min<int64_t>(op.curve_count - first, kCurvesPerLaunch));
    for (int j = 0; j < work.curves; ++j)
      work.curve[j] = AttendCurve<AccOf<S>>(op.curves[first + j]);
    const bool several = kPool && work.curves > 1;
    work.plan = plan_attend_forward({op.shape, kPool ? work.curves : 0, kPool ? 1 : 1 + work.curves,
                                     int(sizeof(S)), int(sizeof(AccOf<S>)), site.multiprocessors,
                                     several ? kForwardBlocks<AccOf<S>, kPool, kPool>
                                             : kForwardBlocks<AccOf<S>, kPool, false>});
    char* workspace = static_cast<char*>(site.workspace(work.plan.workspace_bytes));
    work.tickets = reinterpret_cast<unsigned*>(workspace);
    work.mask_parts = workspace + work.plan.tickets_bytes;
    FASTCAM_CLEAR(workspace, work.plan.tickets_bytes, site.stream);
    if (several) {
      launch_attend_forward_as<S, kPool, kPool>(op, work, site);
    } else {
      launch_attend_forward_as<S, kPool, false>(op, work, site);
    }
  }
}

template <class Site>
void launch_attend_forward(const AttendForward& op, ScalarKind kind, const Site& site) {
  with_storage(kind, [&](auto s) {
    with_flag(op.pool, [&](auto pool) {
      launch_attend_forward_of<decltype(s), decltype(pool)::value>(op, site);
    });
  });
}

template <class S, bool kPool>
void launch_attend_backward_of(const AttendBackward& op, const LaunchSite& site) {
  const AttendPlan plan = plan_attend_backward(
      {op.shape, 0, 0, int(sizeof(S)), int(sizeof(AccOf<S>)), site.multiprocessors, 0});
  with_flag(plan.long_rows, [&](auto long_rows) {
    constexpr int kRounds = kRoundsOf<decltype(long_rows)::value>;
    FASTCAM_LAUNCH((attend_backward_kernel<S, kPool, kRounds>), grid_of(plan.blocks),
                   plan.warps * kWarp, plan.shared_bytes, site.stream, op, plan,
                   AttendCurve<AccOf<S>>(op.curve));
  });
}

template <class Site>
void launch_attend_backward(const AttendBackward& op, ScalarKind kind, const Site& site) {
  with_storage(kind, [&](auto s) {
    with_flag(op.pool, [&](auto pool) {
      launch_attend_backward_of<decltype(s), decltype(pool)::value>(op, site);
    });
  });
}

}  // namespace fastcam
