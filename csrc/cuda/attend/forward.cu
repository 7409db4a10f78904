// _attend_forward on CUDA.
#include "cuda/launch.cuh"
// launch.cuh first: it defines the launch
#include "cuda/attend/launch.cuh"
#include "ops/attend.h"

namespace fastcam {
namespace {

std::tuple<Tensor, Tensor> attend_forward(const Tensor features, const Tensor logits,
                                          const std::vector<double> n,
                                          const std::vector<double> beta, bool pool) {
  return attend_forward_op(
      features, logits, n, beta, pool, [&](const AttendForward& op, ScalarKind kind) {
        on_device_of(features, [&](int count, void* stream, auto workspace) {
          launch_attend_forward(op, kind, LaunchSite{count, stream, workspace});
        });
      });
}

}  // namespace
}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CUDA, m)
{
  m.impl("_attend_forward", TORCH_BOX(&fastcam::attend_forward));
}
