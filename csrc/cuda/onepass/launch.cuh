// From run-time arguments to the one-pass kernels. No torch in here; the includer defines
// FASTCAM_LAUNCH, FASTCAM_LAUNCH_CLUSTER and FASTCAM_CLEAR.
#pragma once

#include "cuda/cam/finish.cuh"
#include "cuda/launch_site.cuh"
#include "cuda/onepass/backward_kernel.cuh"
#include "cuda/onepass/forward_kernel.cuh"

namespace fastcam {

// f with the number of targets that the kernels handle at a time: all, or the most (pass_once()).
template <class F>
auto with_pass_targets(int64_t targets, const F& f) {
  if (targets == 1) return f(std::integral_constant<int, 1>{});
  if (targets <= 4) return f(std::integral_constant<int, 4>{});
  return f(std::integral_constant<int, kPassMostTargets>{});
}

template <class S, int kTargets>
PassShape pass_shape(const CamInputs& in, bool gradients_in_acc, bool weights, int multiprocessors,
                     int shared_limit, bool ring) {
  using Acc = AccOf<S>;
  const bool aligned = reinterpret_cast<uintptr_t>(in.activations) % 16 == 0 &&
                       (in.batch <= 1 || in.activations_stride_n * int64_t(sizeof(S)) % 16 == 0);
  const int grad_element = gradients_in_acc ? int(sizeof(Acc)) : int(sizeof(S));
  const bool grad_aligned = reinterpret_cast<uintptr_t>(in.gradients.data) % 16 == 0 &&
                            (in.batch <= 1 || in.gradients.stride_n * grad_element % 16 == 0) &&
                            (in.targets <= 1 || in.gradients.stride_t * grad_element % 16 == 0);
  return {in.batch,
          in.targets,
          in.channels,
          in.cells,
          int(sizeof(S)),
          int(sizeof(Acc)),
          in.activations_channels_last,
          aligned,
          weights,
          kTargets,
          pass_threads(sizeof(Acc), kTargets),
          multiprocessors,
          shared_limit,
          in.grad_cells,
          grad_element,
          in.gradients_channels_last,
          grad_aligned,
          ring};
}

// False, and nothing is launched, if a sample does not fit into a cluster.
template <class S, int kTargets, class Losses>
bool launch_pass(const CamLossForward& op, bool gradients_in_acc, int shared_limit,
                 const LaunchSite& site) {
  const auto plan = plan_pass(
      pass_shape<S, kTargets>(op.loss.in, gradients_in_acc, op.loss.cell_weights.data != nullptr,
                              site.multiprocessors, shared_limit, site.ring));
  if (!plan) return false;
  PassWork work{};
  work.plan = *plan;
  work.gradients_in_acc = gradients_in_acc;
  if (op.reduction != Reduction::kNone && op.loss.in.batch > 1) {
    work.ticket = site.ticket();
  }
  FASTCAM_LAUNCH_CLUSTER((cam_loss_pass_kernel<S, kTargets, Losses>), grid_of(plan->blocks),
                         plan->threads, plan->at.total, plan->ranks, site.stream, op, work);
  return true;
}

template <class S>
bool launch_pass_of(const CamLossForward& op, bool gradients_in_acc, int shared_limit,
                    const LaunchSite& site) {
  return with_pass_targets(op.loss.in.targets, [&](auto targets) {
    return launch_pass<S, decltype(targets)::value, AllLosses<AccOf<S>>>(op, gradients_in_acc,
                                                                         shared_limit, site);
  });
}
// Each storage type in a file of its own (forward_*.cu): they take long to compile.
extern template bool launch_pass_of<float>(const CamLossForward&, bool, int, const LaunchSite&);
extern template bool launch_pass_of<double>(const CamLossForward&, bool, int, const LaunchSite&);
extern template bool launch_pass_of<Half>(const CamLossForward&, bool, int, const LaunchSite&);
extern template bool launch_pass_of<BFloat16>(const CamLossForward&, bool, int, const LaunchSite&);

// A template, so that a file compiles the kernels that it launches and no others.
template <class Site>
bool launch_cam_loss_pass(const CamLossForward& op, ScalarKind activations, ScalarKind gradients,
                          int shared_limit, const Site& site) {
  bool done = false;
  with_storage(activations, [&](auto s) {
    done = launch_pass_of<decltype(s)>(op, gradients != activations, shared_limit, site);
  });
  return done;
}

template <class S, int kTargets>
void launch_pass_backward(const CamLossBackward& op, const LaunchSite& site) {
  using Acc = AccOf<S>;
  const PassShape shape{op.batch,  op.targets,  op.channels,          op.cells,
                        sizeof(S), sizeof(Acc), op.channels_last,     true,
                        false,     kTargets,    kPassBackwardThreads, site.multiprocessors,
                        0};
  const PassBackwardPlan plan = plan_pass_backward(shape, kPassVector<S>);
  FASTCAM_LAUNCH((cam_loss_backward_kernel<S, kTargets>), grid_of(plan.blocks), plan.threads,
                 plan.shared_bytes, site.stream, op, plan);
}

template <class Site>
void launch_cam_loss_backward(const CamLossBackward& op, ScalarKind activations, const Site& site) {
  with_storage(activations, [&](auto s) {
    with_pass_targets(op.targets, [&](auto targets) {
      launch_pass_backward<decltype(s), decltype(targets)::value>(op, site);
    });
  });
}

}  // namespace fastcam
