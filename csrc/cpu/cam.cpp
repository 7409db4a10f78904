// Grad-CAM ops on the CPU: splits the work over torch's threads and calls the kernels of
// cam_kernels.h.
#include "../checks.h"
#include "cam_kernels.h"
#include "pages.h"
#include "parallel.h"

#include <limits>

namespace fastcam {
namespace {

// The values of a per-cell argument, of the pairs that are not switched off. A mask of 0 to 255 or
// a weight of -1 would give a loss that looks like any other. fastcam/_checks.py knows the prefix.
template <class Acc>
void check_values(const CamLossForward& op, const void* cells, int64_t stride_n, int64_t stride_t,
                  Acc low, Acc high, const char* expected, const char* advice) {
  for (int64_t n = 0; n < op.in.batch; ++n) {
    for (int64_t t = 0; t < op.in.targets; ++t) {
      if (op.where && op.where[n * op.where_stride_n + t * op.where_stride_t] == 0) continue;
      const Acc* value = static_cast<const Acc*>(cells) + n * stride_n + t * stride_t;
      const auto fits = [&](int64_t p) { return int(value[p] >= low) & int(value[p] <= high); };
      int all = 1;  // NaN fits nowhere
      for (int64_t p = 0; p < op.in.cells; ++p) all &= fits(p);
      if (all) continue;
      int64_t p = 0;
      while (fits(p)) ++p;
      STD_TORCH_CHECK(false, "fastcam: value: ", expected, ", got ", double(value[p]),
                      value[p] > high ? advice : "");
    }
  }
}

template <class Acc>
void check_values(const CamLossForward& op) {
  constexpr double kRounding = 1e-3;  // what resizing a mask may leave beyond [0, 1]
  check_values(op, op.regions, op.regions_stride_n, op.regions_stride_t, Acc(-kRounding),
               Acc(1 + kRounding), "regions: expected values in [0, 1]",
               " (divide a mask of 0 to 255 by 255)");
  if (op.cell_weights == nullptr) return;
  const bool shared = op.cell_weights_stride_n == 0 && op.cell_weights_stride_t == 0;
  CamLossForward some = op;
  if (shared) some.in.batch = some.in.targets = 1, some.where = nullptr;
  check_values(some, op.cell_weights, op.cell_weights_stride_n, op.cell_weights_stride_t, Acc(0),
               std::numeric_limits<Acc>::max(), "cell_weights: expected finite values >= 0", "");
}

std::tuple<Tensor, Tensor, Tensor> cam_forward(const Tensor activations, const Tensor gradients,
                                               bool normalize) {
  return cam_forward_op(activations, gradients, normalize,
                        [](const CamForward& op, ScalarKind a, ScalarKind d) {
                          const int64_t unit = op.in.channels * op.in.cells * op.in.targets;
                          parallel_over(op.in.batch, unit, [&](int64_t begin, int64_t end) {
                            const Scratch scratch(cam_forward_scratch_bytes(op.in));
                            cam_kernels().cam_forward(op, a, d, begin, end, scratch.get());
                          });
                        });
}

std::tuple<Tensor, Tensor, Tensor, Tensor>
cam_iou_forward(const Tensor activations, const Tensor gradients, const Tensor regions,
                const std::optional<Tensor> cell_weights, const std::optional<Tensor> where,
                double threshold, double sharpness, int64_t binarize, double eps, double max_pull) {
  return cam_iou_forward_op(activations, gradients, regions, cell_weights, where, threshold,
                            sharpness, binarize, eps, max_pull,
                            [](const CamLossForward& op, ScalarKind a, ScalarKind d) {
                              if (a == ScalarKind::kDouble) {
                                check_values<double>(op);
                              } else {
                                check_values<float>(op);
                              }
                              const int64_t unit = op.in.channels * op.in.cells * op.in.targets;
                              parallel_over(op.in.batch, unit, [&](int64_t begin, int64_t end) {
                                const Scratch scratch(cam_forward_scratch_bytes(op.in));
                                cam_kernels().cam_iou_forward(op, a, d, begin, end, scratch.get());
                              });
                            });
}

std::tuple<Tensor, Tensor> cam_backward(const Tensor activations, const Tensor alpha,
                                        const Tensor unit, const std::optional<Tensor> scale,
                                        const std::optional<Tensor> status, bool need_activations,
                                        bool need_gradients) {
  return cam_backward_op(
      activations, alpha, unit, scale, status, need_activations, need_gradients,
      [](const CamBackward& op, ScalarKind a) {
        prefer_huge_pages(op.grad_activations, op.batch * op.channels * op.cells * bytes_of(a));
        // Few samples are split into channel blocks, so that every thread has
        // work.
        const int64_t threads = torch::stable::get_num_threads();
        const int64_t wanted =
            op.batch >= 2 * threads ? 1 : (2 * threads + op.batch - 1) / op.batch;
        const int64_t blocks =
            std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, op.channels / 32));
        const int64_t work = op.channels * op.cells * op.targets / blocks;
        parallel_over(op.batch * blocks, work, [&](int64_t begin, int64_t end) {
          const Scratch scratch(cam_backward_scratch_bytes(op));
          cam_kernels().cam_backward(op, a, blocks, begin, end, scratch.get());
        });
      });
}

std::string cpu_isa() { return cam_kernels().isa; }

}  // namespace
}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CPU, m)
{
  m.impl("_cam_forward", TORCH_BOX(&fastcam::cam_forward));
  m.impl("_cam_iou_forward", TORCH_BOX(&fastcam::cam_iou_forward));
  m.impl("_cam_backward", TORCH_BOX(&fastcam::cam_backward));
}

STABLE_TORCH_LIBRARY_IMPL(fastcam, CompositeExplicitAutograd, m)
{
  m.impl("_cpu_isa", TORCH_BOX(&fastcam::cpu_isa));
}
