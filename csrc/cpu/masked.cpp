// Products of the rows of a closed-form head that skip what ReLU and dropout have zeroed: lists of
// what takes part, and the kernels of masked_kernels.h over torch's threads.
#include "../checks.h"
#include "masked_kernels.h"
#include "masked_lists.h"
#include "pages.h"
#include "parallel.h"

#include <algorithm>

namespace fastcam {
namespace {

// What the three ops have in common: rows x [R,·], passed [R,J] and a matrix [J,I].
ScalarKind check_masked(const Tensor& x, int64_t x_width, const Tensor& passed,
                        const Tensor& matrix) {
  STD_TORCH_CHECK(x.dim() == 2 && passed.dim() == 2 && matrix.dim() == 2 && x.size(1) == x_width &&
                      x.size(0) == passed.size(0) && passed.size(1) == matrix.size(0),
                  "fastcam: masked products need rows, passed [R,J] and a matrix [J,I] that agree");
  const ScalarKind kind = kind_of(matrix, "weight");
  STD_TORCH_CHECK(kind == ScalarKind::kFloat || kind == ScalarKind::kDouble,
                  "fastcam: masked products are for float32 and float64");
  STD_TORCH_CHECK(x.scalar_type() == matrix.scalar_type() &&
                      passed.scalar_type() == ScalarType::Bool,
                  "fastcam: masked products need rows of the matrix's dtype and a bool passed");
  STD_TORCH_CHECK(x.is_contiguous() && passed.is_contiguous() && matrix.is_contiguous(),
                  "fastcam: masked products need contiguous tensors");
  return kind;
}

template <class F>
void with_acc(ScalarKind kind, const F& f) {
  if (kind == ScalarKind::kDouble) {
    f(double{});
  } else {
    f(float{});
  }
}

// The lists of some rows, and their memory. It is not touched before it is written, and most of it
// never.
template <bool kByRow>
class Lists {
public:
  Lists(const MaskedCells& cells, ScalarKind kind, const void* v, const void* passed)
      : lines_(cells.all_lines(kByRow) * 4), counts_(cells.all_lines(kByRow) * 4),
        indices_(cells.all_entries(kByRow) * 4),
        values_(cells.all_entries(kByRow) * bytes_of(kind)),
        made_{cells.lines(kByRow),
              cells.capacity(kByRow),
              static_cast<const int32_t*>(lines_.get()),
              static_cast<const int32_t*>(counts_.get()),
              static_cast<const int32_t*>(indices_.get()),
              v == nullptr ? nullptr : values_.get()} {
    with_acc(kind, [&](auto acc) {
      using Acc = decltype(acc);
      parallel_over(cells.unit_tiles(), cells.tile * cells.rows, [&](int64_t begin, int64_t end) {
        masked_lists<kByRow, Acc>(
            static_cast<const Acc*>(v), static_cast<const uint8_t*>(passed), cells,
            static_cast<int32_t*>(lines_.get()), static_cast<int32_t*>(counts_.get()),
            static_cast<int32_t*>(indices_.get()), static_cast<Acc*>(values_.get()), begin, end);
      });
    });
  }
  const MaskedLists& get() const { return made_; }
  void* workspace() const { return values_.get(); }  // where there are no values

private:
  Scratch lines_, counts_, indices_, values_;
  MaskedLists made_;
};

// A part of the rows as the kernels take it: a pointer to row r0 of a contiguous matrix.
const void* row_of(const Tensor& t, int64_t r0) {
  return static_cast<const char*>(t.const_data_ptr()) +
         r0 * t.size(1) * (t.scalar_type() == ScalarType::Bool ? 1 : bytes_of(kind_of(t, "rows")));
}

// f(first row, number of rows) for as many rows at a time as the kernels take.
template <class F>
void for_row_parts(int64_t rows, const F& f) {
  for (int64_t r0 = 0; r0 < rows; r0 += kMaskedRows) f(r0, std::min(rows - r0, kMaskedRows));
}

Tensor masked_product(const Tensor v, const Tensor passed, const Tensor weight) {
  const ScalarKind kind = check_masked(v, passed.size(1), passed, weight);
  const int64_t units = weight.size(0), width = weight.size(1);
  Tensor out = empty_on(v, {v.size(0), width}, v.scalar_type());
  if (units == 0) torch::stable::zero_(out);
  const MaskedKernels& kernels = masked_kernels();
  const int64_t block = kernels.block_bytes / bytes_of(kind);
  for_row_parts(v.size(0), [&](int64_t r0, int64_t rows) {
    const Lists<true> lists({rows, units, kernels.tile}, kind, row_of(v, r0), row_of(passed, r0));
    const MaskedProduct op{{rows, units, width},
                           lists.get(),
                           weight.const_data_ptr(),
                           const_cast<void*>(row_of(out, r0))};
    parallel_over((width + block - 1) / block, rows * units, [&](int64_t begin, int64_t end) {
      const Scratch scratch(kMaskedScratchBytes);
      kernels.product(op, kind, begin, end, scratch.get());
    });
  });
  return out;
}

void masked_outer(const Tensor v, const Tensor passed, const Tensor grad, const Tensor out,
                  bool add) {
  const ScalarKind kind = check_masked(v, passed.size(1), passed, out);
  check_masked(grad, out.size(1), passed, out);
  const int64_t units = out.size(0), width = out.size(1);
  if (!add) prefer_huge_pages(out.mutable_data_ptr(), units * width * bytes_of(kind));
  if (!add && v.size(0) == 0) {
    Tensor zeroed = out;
    torch::stable::zero_(zeroed);
  }
  const MaskedKernels& kernels = masked_kernels();
  for_row_parts(v.size(0), [&](int64_t r0, int64_t rows) {
    const MaskedCells cells{rows, units, kernels.tile};
    const Lists<false> lists(cells, kind, row_of(v, r0), row_of(passed, r0));
    const MaskedOuter op{
        {rows, units, width}, lists.get(), row_of(grad, r0), add || r0 > 0, out.mutable_data_ptr()};
    parallel_over(cells.unit_tiles(), kernels.tile * width, [&](int64_t begin, int64_t end) {
      const Scratch scratch(kMaskedScratchBytes);
      kernels.outer(op, kind, begin, end, scratch.get());
    });
  });
}

Tensor masked_dots(const Tensor grad, const Tensor passed, const Tensor weight) {
  const ScalarKind kind = check_masked(grad, weight.size(1), passed, weight);
  const int64_t units = weight.size(0), width = weight.size(1);
  Tensor out = empty_on(grad, {grad.size(0), units}, grad.scalar_type());
  torch::stable::zero_(out);
  const MaskedKernels& kernels = masked_kernels();
  for_row_parts(grad.size(0), [&](int64_t r0, int64_t rows) {
    const MaskedCells cells{rows, units, kernels.tile};
    const Lists<false> lists(cells, kind, nullptr, row_of(passed, r0));
    const MaskedDots op{{rows, units, width},    lists.get(),
                        weight.const_data_ptr(), row_of(grad, r0),
                        lists.workspace(),       const_cast<void*>(row_of(out, r0))};
    parallel_over(cells.unit_tiles(), kernels.tile * width, [&](int64_t begin, int64_t end) {
      const Scratch scratch(kMaskedScratchBytes);
      kernels.dots(op, kind, begin, end, scratch.get());
    });
  });
  return out;
}

}  // namespace
}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CPU, m)
{
  m.impl("_masked_product", TORCH_BOX(&fastcam::masked_product));
  m.impl("_masked_outer", TORCH_BOX(&fastcam::masked_outer));
  m.impl("_masked_dots", TORCH_BOX(&fastcam::masked_dots));
}
