// The GPU side of a launch: device guard, current stream, workspace from torch's allocator, launch
// check. Nothing here waits for the device, so that every op can be captured into a CUDA graph.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/headeronly/util/shim_utils.h>

#include <atomic>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string_view>
#include <utility>

#include "cuda/launch_site.cuh"
#include "ops/checks.h"

// The one way a kernel is launched.
#define FASTCAM_LAUNCH(kernel, blocks, threads, shared_bytes, stream, ...) \
  do {                                                                     \
    kernel<<<unsigned(blocks), unsigned(threads), size_t(shared_bytes),    \
             static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__);            \
    STD_CUDA_KERNEL_LAUNCH_CHECK();                                        \
  } while (false)

// As a grid of clusters of `ranks` blocks (sm_90 and later), with as much shared memory as it
// takes.
#define FASTCAM_LAUNCH_CLUSTER(kernel, blocks, threads, shared_bytes, ranks, stream, ...) \
  ::fastcam::launch_cluster(kernel, blocks, threads, shared_bytes, ranks, stream, __VA_ARGS__)

#define FASTCAM_CLEAR(pointer, bytes, stream) \
  STD_CUDA_CHECK(cudaMemsetAsync(pointer, 0, size_t(bytes), static_cast<cudaStream_t>(stream)))

// Counters of a source file on every device, zero when it is loaded.
#define FASTCAM_TICKETS(name) static __device__ unsigned name[::fastcam::kTickets]

namespace fastcam {

inline constexpr unsigned kTickets = 1 << 14;

// The next of the counters, so that launches of different streams have their own: no more than
// kTickets of them are under way. What is captured into a CUDA graph has one to itself, cleared by
// the graph: it may run beside launches that came round to the same counter.
inline unsigned* next_ticket(unsigned (&tickets)[kTickets], const LaunchSite& site) {
  const auto stream = static_cast<cudaStream_t>(site.stream);
  cudaStreamCaptureStatus status{};
  STD_CUDA_CHECK(cudaStreamIsCapturing(stream, &status));
  if (status != cudaStreamCaptureStatusNone) {
    auto* const own = static_cast<unsigned*>(site.workspace(256));
    FASTCAM_CLEAR(own, sizeof(unsigned), site.stream);
    return own;
  }
  static std::atomic<unsigned> count{0};
  void* first = nullptr;
  STD_CUDA_CHECK(cudaGetSymbolAddress(&first, tickets));
  return static_cast<unsigned*>(first) + count++ % kTickets;
}

// Lets blocks of a kernel have so much dynamic shared memory on the current device, or more: it is
// never lowered, as another thread may be between this and its launch.
inline void allow_shared(const void* kernel, int bytes) {
  static std::mutex mutex;
  static std::map<std::pair<const void*, int>, int> allowed;
  int device = 0;
  STD_CUDA_CHECK(cudaGetDevice(&device));
  const std::lock_guard<std::mutex> lock(mutex);
  int& most = allowed[{kernel, device}];
  if (bytes <= most) return;
  STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  most = bytes;
}

template <class... Params, class... Args>
void launch_cluster(void (*kernel)(Params...), int blocks, int threads, int shared_bytes, int ranks,
                    void* stream, const Args&... args) {
  allow_shared(reinterpret_cast<const void*>(kernel), shared_bytes);
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = unsigned(ranks);
  cluster.val.clusterDim.y = 1;
  cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(unsigned(blocks));
  config.blockDim = dim3(unsigned(threads));
  config.dynamicSmemBytes = size_t(shared_bytes);
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &cluster;
  config.numAttrs = 1;
  STD_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, Params(args)...));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// Makes the tensor's device current and calls launch(where the launch goes).
template <class Launch>
void on_device_of(const Tensor& tensor, const Launch& launch) {
  const int32_t device = tensor.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  LaunchSite site{};
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &site.stream));
  STD_CUDA_CHECK(
      cudaDeviceGetAttribute(&site.multiprocessors, cudaDevAttrMultiProcessorCount, device));
  std::optional<Tensor> held;  // until the launch is queued: the allocator knows the stream
  site.workspace = [&](int64_t bytes) {
    held = empty_on(tensor, {bytes}, ScalarType::Byte);
    return held->mutable_data_ptr();
  };
  launch(site);
}

// Which kernels of the loss of the map FASTCAM_CAM_KERNELS asks for.
inline std::string_view kernels_asked() {
  const char* asked = std::getenv("FASTCAM_CAM_KERNELS");
  return asked == nullptr ? "" : asked;
}

// Shared memory that a block on the tensor's device can have, if the device has clusters and this
// library code of `kernel` for it; 0 if not, or if "parts" asks for none.
template <class Kernel>
int cluster_shared_bytes(const Tensor& tensor, Kernel* kernel) {
  if (kernels_asked() == "parts") return 0;
  const int32_t device = tensor.get_device_index();
  int major = 0;
  int bytes = 0;
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  if (major < 9) return 0;
  cudaFuncAttributes found{};
  STD_CUDA_CHECK(cudaFuncGetAttributes(&found, kernel));
  if (found.ptxVersion < 90) return 0;
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return bytes;
}

}  // namespace fastcam
