// _cam_loss_forward on CUDA.
#include "cuda/launch.cuh"
// cuda/launch.cuh first: it defines the launch
#include "cuda/onepass/launch.cuh"
#include "ops/cam_loss.h"

FASTCAM_TICKETS(tickets);

namespace fastcam {

// Of cuda/cam: what does not fit into a cluster takes their launches.
void launch_cam_loss_values_on(const Tensor& device, const CamLossForward& op, ScalarKind a,
                               ScalarKind d);
void launch_cam_backward_on(const Tensor& device, const CamBackward& op, ScalarKind a);

// Its code tells for which architecture the library has any.
__global__ void cluster_probe_kernel() {}

void launch_cam_loss_forward_on(const Tensor& device, const CamLossForward& op, ScalarKind a,
                                ScalarKind d) {
  on_device_of(device, [&](LaunchSite site) {
    site.ticket = [&] { return next_ticket(tickets, site); };
    const int shared = cluster_shared_bytes(device, cluster_probe_kernel);
    if (shared > 0 && launch_cam_loss_pass(op, a, d, shared, site)) return;
    // In two launches that read A twice: what does not fit into a cluster, and GPUs without.
    launch_cam_loss_values_on(device, op, a, d);
    if (op.grad_gradients != nullptr && op.loss.in.channels > 0) {
      launch_cam_backward_on(device, sums_of_gradients(op), a);
    }
  });
}

}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CUDA, m)
{
  using namespace fastcam;
  m.impl("_cam_loss_forward", TORCH_BOX(&cam_loss_forward<launch_cam_loss_forward_on>));
}
