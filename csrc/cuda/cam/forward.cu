// _cam_forward on CUDA.
#include "cuda/launch.cuh"
// launch.cuh first: it defines the launch
#include "cuda/cam/launch.cuh"

namespace fastcam {
namespace {

std::tuple<Tensor, Tensor, Tensor> cam_forward(const Tensor activations, const Tensor gradients,
                                               bool normalize) {
  return cam_forward_op(activations, gradients, normalize,
                        [&](const CamForward& op, ScalarKind a, ScalarKind d) {
                          on_device_of(activations, [&](int count, void* stream, auto workspace) {
                            launch_cam_forward(op, a, d, LaunchSite{count, stream, workspace});
                          });
                        });
}

}  // namespace
}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CUDA, m)
{
  m.impl("_cam_forward", TORCH_BOX(&fastcam::cam_forward));
}
