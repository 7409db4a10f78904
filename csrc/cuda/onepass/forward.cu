// _cam_loss_forward on CUDA.
#include "cuda/launch.cuh"
// launch.cuh first: it defines the launch
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

LossOutputs cam_loss_forward(const Tensor activations, const Tensor gradients, const Tensor regions,
                             const std::optional<Tensor> cell_weights,
                             const std::optional<Tensor> where, int64_t loss,
                             const std::vector<double> params, double max_pull, int64_t reduction,
                             bool need_gradients) {
  return cam_loss_forward_op(
      activations, gradients, regions, cell_weights, where, loss, params, max_pull, reduction,
      need_gradients, [&](const CamLossPass& op, ScalarKind a, ScalarKind d) {
        on_device_of(activations, [&](int count, void* stream, auto workspace) {
          const PassSite site{count, stream, workspace};
          const int shared = cluster_shared_bytes(activations.get_device_index());
          if (shared > 0 && launch_cam_loss_pass(op, a, d, shared, site)) return;
          launch_cam_loss_in_parts(
              op, a,
              [&](const CamLossForward& part) {
                launch_cam_iou_forward_on(activations, part, a, d);
              },
              [&](const CamBackward& part) { launch_cam_backward_on(activations, part, a); }, site);
        });
      });
}

}  // namespace
}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CUDA, m)
{
  m.impl("_cam_loss_forward", TORCH_BOX(&fastcam::cam_loss_forward));
}
