// The GPU side of a launch: device guard, current stream, workspace from torch's allocator, launch
// check. Nothing here waits for the device, so that every op can be captured into a CUDA graph.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/headeronly/util/shim_utils.h>

#include "../checks.h"

// The one way a kernel is launched.
#define FASTCAM_LAUNCH(kernel, blocks, threads, shared_bytes, stream, ...) \
  do {                                                                     \
    kernel<<<unsigned(blocks), unsigned(threads), size_t(shared_bytes),    \
             static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__);            \
    STD_CUDA_KERNEL_LAUNCH_CHECK();                                        \
  } while (false)

#define FASTCAM_CLEAR(pointer, bytes, stream) \
  STD_CUDA_CHECK(cudaMemsetAsync(pointer, 0, size_t(bytes), static_cast<cudaStream_t>(stream)))

namespace fastcam {

// Makes the tensor's device current and calls launch(multiprocessors, stream, workspace).
template <class Launch>
void on_device_of(const Tensor& tensor, const Launch& launch) {
  const int32_t device = tensor.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  int multiprocessors = 0;
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  std::optional<Tensor> held;  // until the launch is queued: the allocator knows the stream
  const auto workspace = [&](int64_t bytes) {
    held = empty_on(tensor, {bytes}, ScalarType::Byte);
    return held->mutable_data_ptr();
  };
  launch(multiprocessors, stream, workspace);
}

}  // namespace fastcam
