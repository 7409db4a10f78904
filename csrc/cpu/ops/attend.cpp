// Tone-curve and attend ops on the CPU: splits the work over torch's threads and calls the kernels
// of cpu/kernels/attend.h.
#include "ops/attend.h"
#include "cpu/kernels/attend.h"
#include "cpu/ops/pages.h"
#include "cpu/ops/parallel.h"

namespace fastcam {
namespace {

Tensor tone_curve(const Tensor mask, double n, double beta) {
  return tone_curve_op(mask, nullptr, n, beta, [](const ToneCurveOp& op, ScalarKind kind) {
    parallel_over(op.count, 1, [&](int64_t begin, int64_t end) {
      attend_kernels().tone_curve(op, kind, begin, end);
    });
  });
}

Tensor tone_curve_backward(const Tensor mask, const Tensor grad, double n, double beta) {
  return tone_curve_op(mask, &grad, n, beta, [](const ToneCurveOp& op, ScalarKind kind) {
    parallel_over(op.count, 1, [&](int64_t begin, int64_t end) {
      attend_kernels().tone_curve_backward(op, kind, begin, end);
    });
  });
}

std::tuple<Tensor, Tensor> attend_forward(const Tensor features, const Tensor logits,
                                          const std::vector<double> n,
                                          const std::vector<double> beta, bool pool) {
  return attend_forward_op(
      features, logits, n, beta, pool, [](const AttendForward& op, ScalarKind kind) {
        const AttendShape& s = op.shape;
        const int64_t rows = s.batch * s.attributes * s.channels * op.curve_count;
        prefer_huge_pages(op.out, rows * (op.pool ? 1 : s.cells) * bytes_of(kind));
        parallel_over(s.batch * s.attributes * s.channels, s.cells * op.curve_count,
                      [&](int64_t begin, int64_t end) {
                        const Scratch scratch(attend_scratch_bytes(s.cells));
                        attend_kernels().attend_forward(op, kind, begin, end, scratch.get());
                      });
      });
}

std::tuple<Tensor, Tensor> attend_backward(const Tensor features, const Tensor logits,
                                           const Tensor grad_out,
                                           const std::optional<Tensor> grad_mask_sum, double n,
                                           double beta, bool pool, bool need_features,
                                           bool need_logits) {
  return attend_backward_op(
      features, logits, grad_out, grad_mask_sum, n, beta, pool, need_features, need_logits,
      [](const AttendBackward& op, ScalarKind kind) {
        const AttendShape& s = op.shape;
        prefer_huge_pages(op.grad_logits,
                          s.batch * s.attributes * s.channels * s.cells * bytes_of(kind));
        parallel_over(s.batch * s.channels, s.cells * s.attributes,
                      [&](int64_t begin, int64_t end) {
                        const Scratch scratch(attend_scratch_bytes(s.cells));
                        attend_kernels().attend_backward(op, kind, begin, end, scratch.get());
                      });
      });
}

}  // namespace
}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CPU, m)
{
  m.impl("_tone_curve", TORCH_BOX(&fastcam::tone_curve));
  m.impl("_tone_curve_backward", TORCH_BOX(&fastcam::tone_curve_backward));
  m.impl("_attend_forward", TORCH_BOX(&fastcam::attend_forward));
  m.impl("_attend_backward", TORCH_BOX(&fastcam::attend_backward));
}
