// _attend_backward on CUDA.
#include "cuda/launch.cuh"
// launch.cuh first: it defines the launch
#include "cuda/attend/launch.cuh"
#include "ops/attend.h"

namespace fastcam {
namespace {

std::tuple<Tensor, Tensor> attend_backward(const Tensor features, const Tensor logits,
                                           const Tensor grad_out,
                                           const std::optional<Tensor> grad_mask_sum, double n,
                                           double beta, bool pool, bool need_features,
                                           bool need_logits) {
  return attend_backward_op(features, logits, grad_out, grad_mask_sum, n, beta, pool, need_features,
                            need_logits, [&](const AttendBackward& op, ScalarKind kind) {
                              on_device_of(features, [&](int count, void* stream, auto workspace) {
                                launch_attend_backward(op, kind,
                                                       LaunchSite{count, stream, workspace});
                              });
                            });
}

}  // namespace
}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CUDA, m)
{
  m.impl("_attend_backward", TORCH_BOX(&fastcam::attend_backward));
}
