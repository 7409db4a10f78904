// _cam_loss_forward on CUDA.
#include "cuda/launch.cuh"
// cuda/launch.cuh first: it defines the launch
#include "cuda/cam/launch.cuh"
#include "cuda/onepass/launch.cuh"
#include "ops/cam_loss.h"

FASTCAM_TICKETS(tickets);

namespace fastcam {

// Compiled in cuda/cam/.
extern template void launch_cam_loss_values(const CamLossForward&, ScalarKind, ScalarKind,
                                            const LaunchSite&);
extern template void launch_cam_backward(const CamBackward&, ScalarKind, const LaunchSite&);

// Its code tells for which architecture the library has any.
__global__ void cluster_probe_kernel() {}

void launch_cam_loss_forward(const Tensor& device, const CamLossForward& op, ScalarKind a,
                             ScalarKind d) {
  on_device_of(device, [&](LaunchSite site) {
    site.ticket = [&] { return next_ticket(tickets, site); };
    site.ring = kernels_asked() == "ring";
    const int shared = cluster_shared_bytes(device, cluster_probe_kernel);
    if (shared > 0 && launch_cam_loss_pass(op, a, d, shared, site)) return;
    // In two launches that read A twice: what does not fit into a cluster, and GPUs without.
    launch_cam_loss_values(op, a, d, site);
    if (op.grad_gradients != nullptr && op.loss.in.channels > 0) {
      launch_cam_backward(sums_of_gradients(op), a, site);
    }
  });
}

}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CUDA, m)
{
  using namespace fastcam;
  m.impl("_cam_loss_forward", TORCH_BOX(&cam_loss_forward<launch_cam_loss_forward>));
}
