// How an op hands a tensor's memory to its kernel. The emulator of the tests has these functions of
// its own, which tell it what a launch may touch.
#pragma once

#include <torch/csrc/stable/tensor.h>

namespace fastcam {

inline const void* input_data(const torch::stable::Tensor& tensor) {
  return tensor.const_data_ptr();
}
inline void* output_data(const torch::stable::Tensor& tensor) { return tensor.mutable_data_ptr(); }

}  // namespace fastcam
