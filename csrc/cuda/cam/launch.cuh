// From run-time arguments to a kernel: the plan, the compile-time choices, the launch. No torch in
// here; the includer defines FASTCAM_LAUNCH and FASTCAM_CLEAR (launch.cuh on a GPU, the emulator in
// the tests).
#pragma once

#include "cuda/cam/backward_kernel.cuh"
#include "cuda/cam/forward_kernel.cuh"
#include "cuda/launch_site.cuh"

namespace fastcam {

// f with the number of targets that share one read of the activations.
template <class F>
void with_block_targets(int64_t targets, const F& f) {
  with_flag(targets == 1, [&](auto one) {
    f(std::integral_constant<int, decltype(one)::value ? 1 : kTargetsPerBlock>{});
  });
}

template <class S, int kTargets, class Finish>
void launch_forward(const typename Finish::Params& op, bool gradients_in_acc,
                    const LaunchSite& site) {
  using Acc = AccOf<S>;
  const CamInputs& in = Finish::inputs(op);
  ForwardWork work{};
  work.gradients_in_acc = gradients_in_acc;
  work.plan = plan_forward({in.batch, in.targets, in.channels, in.cells, in.grad_cells, sizeof(S),
                            int(gradients_in_acc ? sizeof(Acc) : sizeof(S)), sizeof(Acc),
                            in.activations_channels_last || in.cells == 1, kTargets,
                            kMaxChunk<Acc, kTargets>, site.multiprocessors});
  const int64_t groups = in.batch * work.plan.target_blocks;
  const bool shared = work.plan.splits > 1;
  const bool counted = Finish::reduces(op) && groups > 1;
  if (shared || counted) {
    const int64_t cleared = 4 * ((shared ? groups : 0) + 1);
    const int64_t tickets = round_up(cleared, kWorkspaceAlignment);
    char* workspace = static_cast<char*>(site.workspace(tickets + work.plan.parts_bytes));
    work.finished = counted ? reinterpret_cast<unsigned*>(workspace) : nullptr;
    work.tickets = reinterpret_cast<unsigned*>(workspace) + 1;
    work.parts = workspace + tickets;
    FASTCAM_CLEAR(workspace, cleared, site.stream);
  }
  FASTCAM_LAUNCH((cam_forward_kernel<S, kTargets, Finish>), grid_of(work.plan.blocks),
                 work.plan.threads, work.plan.shared_bytes, site.stream, op, work);
}

// Finish<Acc>: the policy for either arithmetic type.
template <template <class> class Finish, class Params>
void launch_forward_of(const Params& op, int64_t targets, ScalarKind activations,
                       ScalarKind gradients, const LaunchSite& site) {
  with_storage(activations, [&](auto s) {
    using S = decltype(s);
    using Policy = Finish<AccOf<S>>;
    with_block_targets(targets, [&](auto at_once) {
      launch_forward<S, decltype(at_once)::value, Policy>(op, gradients != activations, site);
    });
  });
}

template <class S, int kTargets>
void launch_backward(const CamBackward& op, const LaunchSite& site) {
  using Acc = AccOf<S>;
  const CamPlan plan = plan_backward({op.batch, op.targets, op.channels, op.cells, 0, sizeof(S), 0,
                                      sizeof(Acc), op.activations_channels_last || op.cells == 1,
                                      kTargets, kMaxChunk<Acc, kTargets>, site.multiprocessors},
                                     op.grad_activations != nullptr, op.grad_gradients != nullptr);
  FASTCAM_LAUNCH((cam_backward_kernel<S, kTargets>), grid_of(plan.blocks), plan.threads,
                 plan.shared_bytes, site.stream, op, plan);
}

// Templates, so that a file compiles the kernels that it launches and no others.
template <class Site>
void launch_cam_backward(const CamBackward& op, ScalarKind activations, const Site& site) {
  with_storage(activations, [&](auto s) {
    with_block_targets(op.targets, [&](auto at_once) {
      launch_backward<decltype(s), decltype(at_once)::value>(op, site);
    });
  });
}

template <class Site>
void launch_cam_forward(const CamForward& op, ScalarKind activations, ScalarKind gradients,
                        const Site& site) {
  launch_forward_of<MapFinish>(op, op.in.targets, activations, gradients, site);
}

template <class Site>
void launch_cam_loss_values(const CamLossForward& op, ScalarKind activations, ScalarKind gradients,
                            const Site& site) {
  launch_forward_of<AnyLossFinish>(op, op.loss.in.targets, activations, gradients, site);
}

}  // namespace fastcam
