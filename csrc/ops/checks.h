// Argument checks shared by the raw ops, the same for every device. The messages are a second line
// of defence: the Python layer (fastcam/functional.py) checks first and names the caller's own
// arguments.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/MemoryFormat.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <vector>

#include "common/storage.h"
#include "ops/pointers.h"

namespace fastcam {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline ScalarKind kind_of(const Tensor& tensor, const char* name) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return ScalarKind::kFloat;
    case ScalarType::Double: return ScalarKind::kDouble;
    case ScalarType::Half: return ScalarKind::kHalf;
    case ScalarType::BFloat16: return ScalarKind::kBFloat16;
    default: break;
  }
  STD_TORCH_CHECK(false, "fastcam: ", name,
                  " must be float32, float64, float16 or bfloat16, got scalar type ",
                  int(tensor.scalar_type()));
  return ScalarKind::kFloat;
}

inline ScalarType acc_type(ScalarKind kind) {
  return kind == ScalarKind::kDouble ? ScalarType::Double : ScalarType::Float;
}

// Are the last three axes (channel, row, column) one dense block, channels first or channels last?
inline bool is_channels_first(const Tensor& t) {
  const int64_t d = t.dim();
  const int64_t C = t.size(d - 3), H = t.size(d - 2), W = t.size(d - 1);
  return (W == 1 || t.stride(d - 1) == 1) && (H == 1 || t.stride(d - 2) == W) &&
         (C == 1 || t.stride(d - 3) == H * W);
}
inline bool is_channels_last(const Tensor& t) {
  const int64_t d = t.dim();
  const int64_t C = t.size(d - 3), H = t.size(d - 2), W = t.size(d - 1);
  return (C == 1 || t.stride(d - 3) == 1) && (W == 1 || t.stride(d - 1) == C) &&
         (H == 1 || t.stride(d - 2) == W * C);
}

// The tensor itself where a kernel can read it as it lies, a contiguous copy elsewhere.
inline Tensor readable(const Tensor& t) {
  return t.numel() == 0 || is_channels_first(t) || is_channels_last(t)
             ? t
             : torch::stable::contiguous(t);
}
inline Tensor with_contiguous_cells(const Tensor& t) {
  const int64_t H = t.size(2), W = t.size(3);
  return t.numel() == 0 || ((W == 1 || t.stride(3) == 1) && (H == 1 || t.stride(2) == W))
             ? t
             : torch::stable::contiguous(t);
}

inline Tensor empty_on(const Tensor& like, std::vector<int64_t> sizes, ScalarType dtype,
                       bool channels_last = false) {
  using torch::headeronly::MemoryFormat;
  return torch::stable::empty(sizes, dtype, std::nullopt, like.device(), std::nullopt,
                              channels_last ? MemoryFormat::ChannelsLast
                                            : MemoryFormat::Contiguous);
}

// The dispatcher looks at the devices of no more than some arguments, and a kernel would read
// memory of another one.
inline void check_device(const Tensor& t, const char* name, const Tensor& other) {
  STD_TORCH_CHECK(t.device() == other.device(), "fastcam: ", name,
                  " is on another device than the other arguments");
}

}  // namespace fastcam
