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
    using S = decltype(s);
    if (op.grad == nullptr) {
      launch_tone_curve_of<S, false>(op, site);
    } else {
      launch_tone_curve_of<S, true>(op, site);
    }
  });
}

template <class S, bool kPool>
void launch_attend_forward_of(const AttendForward& op, const LaunchSite& site) {
  const AttendShape& shape = op.shape;
  const int64_t sample = shape.channels * shape.cells;
  const auto aligned = [&](const void* p) { return in_vectors(p, sample, int(sizeof(S))); };
  // For every 64 curves (in practice: for all) L is read once.
  for (int64_t first = 0; first < op.curve_count; first += kCurvesPerLaunch) {
    AttendForwardWork work{};
    work.first_curve = int(first);
    work.curves = int(std::min<int64_t>(op.curve_count - first, kCurvesPerLaunch));
    std::copy_n(op.curves + first, work.curves, work.curve);
    work.plan = plan_attend_forward(
        {shape, kPool, aligned(op.features) && aligned(op.logits) && (kPool || aligned(op.out)),
         work.curves, int(sizeof(S)), int(sizeof(AccOf<S>)), kAttendThreads<AccOf<S>>,
         kAttendForwardUnroll<S>, site.multiprocessors});
    FASTCAM_LAUNCH((attend_forward_kernel<S, kPool>), grid_of(work.plan.blocks), work.plan.threads,
                   work.plan.shared_bytes, site.stream, op, work);
  }
}

template <class Site>
void launch_attend_forward(const AttendForward& op, ScalarKind kind, const Site& site) {
  with_storage(kind, [&](auto s) {
    using S = decltype(s);
    if (op.pool) {
      launch_attend_forward_of<S, true>(op, site);
    } else {
      launch_attend_forward_of<S, false>(op, site);
    }
  });
}

template <class S, bool kPool>
void launch_attend_backward_of(const AttendBackward& op, const LaunchSite& site) {
  const AttendShape& shape = op.shape;
  const int64_t sample = shape.channels * shape.cells;
  bool aligned = true;
  for (const void* p : {op.features, op.logits, static_cast<const void*>(op.grad_features),
                        static_cast<const void*>(op.grad_logits), kPool ? nullptr : op.grad_out}) {
    aligned = aligned && in_vectors(p, sample, int(sizeof(S)));  // null is aligned
  }
  const AttendPlan plan =
      plan_attend_backward({shape, kPool, aligned, 1, int(sizeof(S)), int(sizeof(AccOf<S>)),
                            kAttendThreads<AccOf<S>>, kAttendBackwardUnroll, site.multiprocessors});
  FASTCAM_LAUNCH((attend_backward_kernel<S, kPool>), grid_of(plan.blocks), plan.threads,
                 plan.shared_bytes, site.stream, op, plan);
}

template <class Site>
void launch_attend_backward(const AttendBackward& op, ScalarKind kind, const Site& site) {
  with_storage(kind, [&](auto s) {
    using S = decltype(s);
    if (op.pool) {
      launch_attend_backward_of<S, true>(op, site);
    } else {
      launch_attend_backward_of<S, false>(op, site);
    }
  });
}

}  // namespace fastcam
