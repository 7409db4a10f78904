// _cam_loss_forward on CUDA.
#include "cuda/launch.cuh"
// cuda/launch.cuh first: it defines the launch
#include "cuda/onepass/launch.cuh"
#include "ops/cam_loss.h"

namespace fastcam {
namespace {

// Shared memory that a block of the current device can have, if the device has clusters and this
// library code for it; 0 if not.
int cluster_shared_bytes(int32_t device) {
  int major = 0;
  int bytes = 0;
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  if (major < 9) return 0;
  cudaFuncAttributes found{};
  STD_CUDA_CHECK(cudaFuncGetAttributes(&found, reduce_pairs_kernel<float>));
  if (found.ptxVersion < 90) return 0;
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return bytes;
}

}  // namespace

void launch_cam_loss_forward_on(const Tensor& device, const CamLossPass& op, ScalarKind a,
                                ScalarKind d) {
  on_device_of(device, [&](const LaunchSite& site) {
    const int shared = cluster_shared_bytes(device.get_device_index());
    if (shared > 0 && launch_cam_loss_pass(op, a, d, shared, site)) return;
    launch_cam_loss_in_parts(
        op, a, [&](const CamLossForward& part) { launch_cam_iou_forward_on(device, part, a, d); },
        [&](const CamBackward& part) { launch_cam_backward_on(device, part, a); }, site);
  });
}

}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CUDA, m)
{
  using namespace fastcam;
  m.impl("_cam_loss_forward", TORCH_BOX(&cam_loss_forward<launch_cam_loss_forward_on>));
}
