// The tone curve and attend on the CPU: splits the work over torch's threads and calls the kernels
// of cpu/kernels/attend.h.
#include "ops/attend.h"

#include <algorithm>
#include <numeric>

#include "cpu/kernels/attend.h"
#include "cpu/ops/pages.h"
#include "cpu/ops/parallel.h"

namespace fastcam {
namespace {

// Forward without `grad`, backward with it.
void run_tone_curve(const Tensor&, const ToneCurveOp& op, ScalarKind kind) {
  const AttendKernels& kernels = attend_kernels();
  const auto kernel = op.grad == nullptr ? kernels.tone_curve : kernels.tone_curve_backward;
  parallel_over(op.count, 1, [&](int64_t begin, int64_t end) { kernel(op, kind, begin, end); });
}

void run_attend_forward(const Tensor&, const AttendForward& op, ScalarKind kind) {
  const AttendShape& s = op.shape;
  const int64_t rows = s.batch * s.attributes * s.channels;
  prefer_huge_pages(op.out, rows * op.curve_count * (op.pool ? 1 : s.cells) * bytes_of(kind));
  const Scratch row_sums(rows * int64_t(sizeof(double)));
  AttendForward by_row = op;
  by_row.mask_sum = row_sums.get();
  // Several curves pool rows in groups, and a row's last bits depend on whether it is in one: the
  // groups are the same for any number of threads.
  const int64_t group = op.pool && op.curve_count > 1 ? kAttendRows : 1;
  const auto body = [&](int64_t begin, int64_t end) {
    const Scratch scratch(attend_scratch_bytes(s.cells));
    attend_kernels().attend_forward(by_row, kind, begin * group, std::min(rows, end * group),
                                    scratch.get());
  };
  parallel_over(ceil_div(rows, group), group * s.cells * op.curve_count, body);
  with_acc(kind, [&](auto acc) {
    using Acc = decltype(acc);
    const Acc* from = static_cast<const Acc*>(row_sums.get());
    for (int64_t i = 0; i < s.batch * s.attributes; ++i, from += s.channels) {
      static_cast<Acc*>(op.mask_sum)[i] = Acc(std::accumulate(from, from + s.channels, 0.0));
    }
  });
}

void run_attend_backward(const Tensor&, const AttendBackward& op, ScalarKind kind) {
  const AttendShape& s = op.shape;
  prefer_huge_pages(op.grad_logits, s.batch * s.attributes * s.channels * s.cells * bytes_of(kind));
  parallel_over(s.batch * s.channels, s.cells * s.attributes, [&](int64_t begin, int64_t end) {
    const Scratch scratch(attend_scratch_bytes(s.cells));
    attend_kernels().attend_backward(op, kind, begin, end, scratch.get());
  });
}

}  // namespace
}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CPU, m)
{
  using namespace fastcam;
  m.impl("_tone_curve", TORCH_BOX(&tone_curve<run_tone_curve>));
  m.impl("_tone_curve_backward", TORCH_BOX(&tone_curve_backward<run_tone_curve>));
  m.impl("_attend_forward", TORCH_BOX(&attend_forward<run_attend_forward>));
  m.impl("_attend_backward", TORCH_BOX(&attend_backward<run_attend_backward>));
}
