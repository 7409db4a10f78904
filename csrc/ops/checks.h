// Argument checks shared by the raw ops, the same for every device. The messages are a second line
// of defence: the Python layer (fastcam/ops/checks.py) checks first and names the caller's own
// arguments.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <initializer_list>
#include <optional>
#include <vector>

#include "common/storage.h"
#include "ops/pointers.h"

// Newer headers have one whose error tells what happened; torch 2.10 has the plain one only.
#ifndef STABLE_TORCH_ERROR_CODE_CHECK
#define STABLE_TORCH_ERROR_CODE_CHECK TORCH_ERROR_CODE_CHECK
#endif

namespace fastcam {

using Library = torch::stable::detail::StableLibrary;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// torch's names of the storage types, in the order of ScalarKind.
inline constexpr ScalarType kScalarTypes[kScalarKinds] = {ScalarType::Float, ScalarType::Double,
                                                          ScalarType::Half, ScalarType::BFloat16};

inline ScalarType scalar_type_of(ScalarKind kind) { return kScalarTypes[int(kind)]; }

inline ScalarKind kind_of(const Tensor& tensor, const char* name) {
  for (int kind = 0; kind < kScalarKinds; ++kind) {
    if (kScalarTypes[kind] == tensor.scalar_type()) return ScalarKind(kind);
  }
  STD_TORCH_CHECK(false, "fastcam: ", name,
                  " must be float32, float64, float16 or bfloat16, got scalar type ",
                  int(tensor.scalar_type()));
  return ScalarKind::kFloat;
}

inline ScalarType acc_type(ScalarKind kind) {
  return kind == ScalarKind::kDouble ? ScalarType::Double : ScalarType::Float;
}

// Do these axes, counted from the last (-1) and named from the innermost, lie in memory as one
// dense block? The stride of an axis of one does not matter, nor does any of a tensor without
// values.
inline bool is_dense(const Tensor& t, std::initializer_list<int> axes) {
  if (t.numel() == 0) return true;
  int64_t stride = 1;
  for (const int axis : axes) {
    const int64_t size = t.size(t.dim() + axis);
    if (size != 1 && t.stride(t.dim() + axis) != stride) return false;
    stride *= size;
  }
  return true;
}

// The layouts of (channel, row, column) that kernels read; what is both is channels first. Python
// has the rule a second time, for tensors that only have shapes (fastcam/ops/library.py); a test
// compares the two over all orders of strides (tests/ops/test_layouts.py).
inline bool is_channels_first(const Tensor& t) { return is_dense(t, {-1, -2, -3}); }
inline bool is_channels_last(const Tensor& t) { return is_dense(t, {-3, -1, -2}); }

// The tensor itself where a kernel can read it as it lies, a contiguous copy elsewhere.
// (torch::stable::contiguous() would look its operator up by name for what is contiguous, too.)
inline Tensor as_contiguous(const Tensor& t) {
  return t.is_contiguous() ? t : torch::stable::contiguous(t);
}
inline Tensor readable(const Tensor& t) {
  return is_channels_first(t) || is_channels_last(t) ? t : torch::stable::contiguous(t);
}
inline Tensor with_contiguous_cells(const Tensor& t) {
  return is_dense(t, {-1, -2}) ? t : torch::stable::contiguous(t);
}

// An op makes up to eight outputs; torch::stable::empty() looks its operator up by name for each,
// this does not. channels_last: of sizes [N,C,H,W].
inline Tensor empty_on(const Tensor& like, const std::vector<int64_t>& sizes, ScalarType dtype,
                       bool channels_last = false) {
  std::vector<int64_t> strides(sizes.size());
  int64_t stride = 1;
  const auto next = [&](size_t axis) {
    strides[axis] = stride;
    stride *= std::max<int64_t>(sizes[axis], 1);
  };
  if (channels_last) {
    for (const size_t axis : {1, 3, 2, 0}) next(axis);
  } else {
    for (size_t axis = sizes.size(); axis-- > 0;) next(axis);
  }
  int32_t device = 0, index = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &index));
  AtenTensorHandle made = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      int64_t(sizes.size()), sizes.data(), strides.data(),
      torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)), device, index,
      &made));
  return Tensor(made);
}

// An output that is asked for, or one without values.
inline Tensor empty_if(bool needed, const Tensor& like, const std::vector<int64_t>& sizes,
                       ScalarType dtype, bool channels_last = false) {
  if (!needed) return empty_on(like, {0}, dtype);
  return empty_on(like, sizes, dtype, channels_last);
}

// The dispatcher looks at the devices of no more than some arguments, and a kernel would read
// memory of another one.
inline void check_device(const Tensor& t, const char* name, const Tensor& other) {
  STD_TORCH_CHECK(t.device() == other.device(), "fastcam: ", name,
                  " is on another device than the other arguments");
}

}  // namespace fastcam
