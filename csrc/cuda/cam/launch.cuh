// From run-time arguments to a kernel: the plan, the compile-time choices, the launch. No torch in
// here; the includer defines FASTCAM_LAUNCH and FASTCAM_CLEAR (launch.cuh on a GPU, the emulator in
// the tests).
#pragma once

#include "cuda/cam/backward_kernel.cuh"
#include "cuda/cam/forward_kernel.cuh"
#include "cuda/launch_site.cuh"

namespace fastcam {

inline int grid_of(const CamPlan& plan) { return grid_of(plan.blocks); }

template <class S, int kTargets>
PlanShape forward_shape(const CamInputs& in, bool gradients_in_acc, int multiprocessors) {
  using Acc = AccOf<S>;
  return {in.batch,
          in.targets,
          in.channels,
          in.cells,
          in.grad_cells,
          int(sizeof(S)),
          int(gradients_in_acc ? sizeof(Acc) : sizeof(S)),
          int(sizeof(Acc)),
          in.activations_channels_last || in.cells == 1,
          kTargets,
          kMaxThreads<Acc, kTargets>,
          kMaxChunk<Acc, kTargets>,
          multiprocessors};
}

template <class S, int kTargets, class Finish>
void launch_forward(const typename Finish::Params& op, bool gradients_in_acc,
                    const LaunchSite& site) {
  ForwardWork work{};
  work.gradients_in_acc = gradients_in_acc;
  work.plan =
      plan_forward(forward_shape<S, kTargets>(op.in, gradients_in_acc, site.multiprocessors),
                   forward_scratch<S, kTargets>);
  if (work.plan.workspace_bytes > 0) {
    char* workspace = static_cast<char*>(site.workspace(work.plan.workspace_bytes));
    work.tickets = reinterpret_cast<unsigned*>(workspace);
    work.parts = workspace + work.plan.tickets_bytes;
    FASTCAM_CLEAR(workspace, work.plan.tickets_bytes, site.stream);
  }
  FASTCAM_LAUNCH((cam_forward_kernel<S, kTargets, Finish>), grid_of(work.plan), work.plan.threads,
                 work.plan.shared_bytes, site.stream, op, work);
}

// Finish<Acc>: the policy for either arithmetic type.
template <template <class> class Finish, class Params>
void launch_forward_of(const Params& op, ScalarKind activations, ScalarKind gradients,
                       const LaunchSite& site) {
  with_storage(activations, [&](auto s) {
    using S = decltype(s);
    using Policy = Finish<AccOf<S>>;
    const bool in_acc = gradients != activations;
    if (op.in.targets == 1) {
      launch_forward<S, 1, Policy>(op, in_acc, site);
    } else {
      launch_forward<S, kTargetsPerBlock, Policy>(op, in_acc, site);
    }
  });
}

template <class S, int kTargets>
void launch_backward(const CamBackward& op, const LaunchSite& site) {
  using Acc = AccOf<S>;
  BackwardWork work{};
  work.need_activations = op.grad_activations != nullptr;
  const PlanShape shape{op.batch,
                        op.targets,
                        op.channels,
                        op.cells,
                        0,
                        int(sizeof(S)),
                        0,
                        int(sizeof(Acc)),
                        op.activations_channels_last || op.cells == 1,
                        kTargets,
                        kMaxThreads<Acc, kTargets>,
                        kMaxChunk<Acc, kTargets>,
                        site.multiprocessors};
  work.plan = plan_backward(shape, work.need_activations, op.grad_gradients != nullptr,
                            backward_scratch<S, kTargets>);
  FASTCAM_LAUNCH((cam_backward_kernel<S, kTargets>), grid_of(work.plan), work.plan.threads,
                 work.plan.shared_bytes, site.stream, op, work);
}

// A template, so that a file compiles the kernels that it launches and no others.
template <class Site>
void launch_cam_backward(const CamBackward& op, ScalarKind activations, const Site& site) {
  with_storage(activations, [&](auto s) {
    using S = decltype(s);
    if (op.targets == 1) {
      launch_backward<S, 1>(op, site);
    } else {
      launch_backward<S, kTargetsPerBlock>(op, site);
    }
  });
}

template <class Site>
void launch_cam_forward(const CamForward& op, ScalarKind activations, ScalarKind gradients,
                        const Site& site) {
  launch_forward_of<MapFinish>(op, activations, gradients, site);
}

template <class Site>
void launch_cam_loss_values(const CamLoss& op, ScalarKind activations, ScalarKind gradients,
                            const Site& site) {
  launch_forward_of<AnyLossFinish>(op, activations, gradients, site);
}

}  // namespace fastcam
