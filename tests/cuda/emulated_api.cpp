// What the Python tests see of the emulator, through ctypes (emulation.py).
#include <cstdio>

#include "emulated_attend.h"
#include "emulated_ops.h"
#include "planted_bugs.h"

namespace {

using namespace emulator;
using namespace fastcam;

template <class F>
int guarded(char* message, int size, const F& f) {
  try {
    f();
    return 0;
  } catch (const std::exception& error) {
    std::snprintf(message, size_t(size), "%s", error.what());
    return 1;
  }
}

}  // namespace

extern "C" {

void* emulator_new(int reversed, int count, int part, int whole) {
  auto* device = new Device;
  device->options.reversed = reversed != 0;
  device->options.count = count != 0;
  device->options.part = part;
  device->options.whole = whole;
  return device;
}
void emulator_delete(void* device) { delete static_cast<Device*>(device); }
void emulator_add_buffer(void* device, const void* data, int64_t bytes) {
  static_cast<Device*>(device)->add_buffer(data, size_t(bytes));
}
// loaded, stored, sectors, accesses of warps, of these 16 bytes a lane, launches
void emulator_traffic(const void* handle, int64_t* out) {
  const Device& device = *static_cast<const Device*>(handle);
  out[0] = device.traffic.loaded_bytes;
  out[1] = device.traffic.stored_bytes;
  out[2] = device.traffic.sectors;
  out[3] = device.traffic.accesses;
  out[4] = device.traffic.vector_accesses;
  out[5] = device.launches;
}

// sizes: N, T, C, P, Q; strides: A's n, D's n, D's t; layouts: A, D channels last
static CamInputs inputs_of(const int64_t* sizes, const int64_t* strides, const int* layouts,
                           const void* activations, const void* gradients) {
  CamInputs in{};
  in.batch = sizes[0];
  in.targets = sizes[1];
  in.channels = sizes[2];
  in.cells = sizes[3];
  in.grad_cells = sizes[4];
  in.activations = activations;
  in.activations_stride_n = strides[0];
  in.activations_channels_last = layouts[0] != 0;
  in.gradients = gradients;
  in.gradients_stride_n = strides[1];
  in.gradients_stride_t = strides[2];
  in.gradients_channels_last = layouts[1] != 0;
  return in;
}

int emulate_cam_forward(void* device, int multiprocessors, int a_kind, int d_kind,
                        const int64_t* sizes, const int64_t* strides, const int* layouts,
                        const void* activations, const void* gradients, int normalize, void* cam,
                        void* alpha, void* peak, char* message, int message_size) {
  return guarded(message, message_size, [&] {
    const CamForward op{inputs_of(sizes, strides, layouts, activations, gradients), normalize != 0,
                        alpha, cam, peak};
    run_cam_forward(*static_cast<Device*>(device), multiprocessors, op, ScalarKind(a_kind),
                    ScalarKind(d_kind));
  });
}

// cell_strides: n and t of regions, cell_weights, where
int emulate_cam_iou_forward(void* device, int multiprocessors, int a_kind, int d_kind,
                            const int64_t* sizes, const int64_t* strides, const int* layouts,
                            const void* activations, const void* gradients, const void* regions,
                            const void* cell_weights, const uint8_t* where,
                            const int64_t* cell_strides, double threshold, double sharpness,
                            int binarize, double eps, double max_pull, void* loss, void* alpha,
                            void* grad_map, uint8_t* status, char* message, int message_size) {
  return guarded(message, message_size, [&] {
    CamLossForward op{};
    op.in = inputs_of(sizes, strides, layouts, activations, gradients);
    op.regions = regions;
    op.regions_stride_n = cell_strides[0];
    op.regions_stride_t = cell_strides[1];
    op.cell_weights = cell_weights;
    op.cell_weights_stride_n = cell_strides[2];
    op.cell_weights_stride_t = cell_strides[3];
    op.where = where;
    op.where_stride_n = cell_strides[4];
    op.where_stride_t = cell_strides[5];
    op.kind = LossKind(binarize);
    op.params = {{threshold, sharpness, eps}, 1, int32_t(op.in.cells)};
    op.max_pull = max_pull;
    op.alpha = alpha;
    op.grad_map = grad_map;
    op.loss = loss;
    op.status = status;
    run_cam_iou_forward(*static_cast<Device*>(device), multiprocessors, op, ScalarKind(a_kind),
                        ScalarKind(d_kind));
  });
}

// cell_strides: n and t of regions, cell_weights, where; shape: H, W
int emulate_cam_loss_forward(void* device, int multiprocessors, int a_kind, int d_kind,
                             const int64_t* sizes, const int64_t* strides, const int* layouts,
                             const void* activations, const void* gradients, const void* regions,
                             const void* cell_weights, const uint8_t* where,
                             const int64_t* cell_strides, const int64_t* shape, int loss_kind,
                             const double* params, double max_pull, int reduction, int shared_limit,
                             void* loss, uint8_t* status, void* reduced, void* count, void* alpha,
                             void* grad_map, void* grad_gradients, char* message,
                             int message_size) {
  return guarded(message, message_size, [&] {
    CamLossPass pass{};
    CamLossForward& op = pass.loss;
    op.in = inputs_of(sizes, strides, layouts, activations, gradients);
    op.regions = regions;
    op.regions_stride_n = cell_strides[0];
    op.regions_stride_t = cell_strides[1];
    op.cell_weights = cell_weights;
    op.cell_weights_stride_n = cell_strides[2];
    op.cell_weights_stride_t = cell_strides[3];
    op.where = where;
    op.where_stride_n = cell_strides[4];
    op.where_stride_t = cell_strides[5];
    op.kind = LossKind(loss_kind);
    for (int i = 0; i < kMaxLossParams; ++i) op.params.value[i] = params[i];
    op.max_pull = max_pull;
    op.params.rows = int32_t(shape[0]);
    op.params.cols = int32_t(shape[1]);
    op.alpha = alpha;
    op.grad_map = grad_map;
    op.loss = loss;
    op.status = status;
    pass.reduction = Reduction(reduction);
    pass.grad_gradients = grad_gradients;
    pass.reduced = reduced;
    pass.count = count;
    run_cam_loss_pass(*static_cast<Device*>(device), multiprocessors, pass, ScalarKind(a_kind),
                      ScalarKind(d_kind), shared_limit);
  });
}

// sizes: N, T, C, P; strides: grad's n and t
int emulate_cam_loss_backward(void* device, int multiprocessors, int a_kind, const int64_t* sizes,
                              const int64_t* strides, int channels_last, const void* alpha,
                              const void* grad_map, const void* grad_gradients,
                              const uint8_t* status, const void* grad, const void* count,
                              void* grad_activations, void* scaled, char* message,
                              int message_size) {
  return guarded(message, message_size, [&] {
    CamLossBackward op{};
    op.batch = sizes[0];
    op.targets = sizes[1];
    op.channels = sizes[2];
    op.cells = sizes[3];
    op.channels_last = channels_last != 0;
    op.alpha = alpha;
    op.grad_map = grad_map;
    op.grad_gradients = grad_gradients;
    op.status = status;
    op.grad = grad;
    op.grad_stride_n = strides[0];
    op.grad_stride_t = strides[1];
    op.count = count;
    op.grad_activations = grad_activations;
    op.scaled_gradients = scaled;
    run_cam_loss_backward(*static_cast<Device*>(device), multiprocessors, op, ScalarKind(a_kind));
  });
}

// sizes: N, T, C, P; strides: A's n, scale's n and t
int emulate_cam_backward(void* device, int multiprocessors, int a_kind, const int64_t* sizes,
                         const int64_t* strides, int channels_last, const void* activations,
                         const void* alpha, const void* grad_map, const void* scale,
                         const uint8_t* status, void* grad_activations, void* grad_gradients,
                         char* message, int message_size) {
  return guarded(message, message_size, [&] {
    CamBackward op{};
    op.batch = sizes[0];
    op.targets = sizes[1];
    op.channels = sizes[2];
    op.cells = sizes[3];
    op.activations = activations;
    op.activations_stride_n = strides[0];
    op.activations_channels_last = channels_last != 0;
    op.alpha = alpha;
    op.grad_map = grad_map;
    op.scale = scale;
    op.scale_stride_n = strides[1];
    op.scale_stride_t = strides[2];
    op.status = status;
    op.grad_activations = grad_activations;
    op.grad_gradients = grad_gradients;
    run_cam_backward(*static_cast<Device*>(device), multiprocessors, op, ScalarKind(a_kind));
  });
}

// Forward without `grad`.
int emulate_tone_curve(void* device, int multiprocessors, int kind, int64_t count,
                       const double* curve, const void* mask, const void* grad, void* out,
                       char* message, int message_size) {
  return guarded(message, message_size, [&] {
    run_tone_curve(*static_cast<Device*>(device), multiprocessors,
                   {count, {curve[0], curve[1]}, mask, grad, out}, ScalarKind(kind));
  });
}

// sizes: N, K, C, P; curves: n, beta of each
int emulate_attend_forward(void* device, int multiprocessors, int kind, const int64_t* sizes,
                           int pool, int64_t curve_count, const double* curves,
                           const void* features, const void* logits, void* out, void* mask_sum,
                           char* message, int message_size) {
  return guarded(message, message_size, [&] {
    std::vector<ToneCurve> all;
    for (int64_t j = 0; j < curve_count; ++j) all.push_back({curves[2 * j], curves[2 * j + 1]});
    const AttendForward op{{sizes[0], sizes[1], sizes[2], sizes[3]},
                           pool != 0,
                           curve_count,
                           all.data(),
                           features,
                           logits,
                           out,
                           mask_sum};
    run_attend_forward(*static_cast<Device*>(device), multiprocessors, op, ScalarKind(kind));
  });
}

int emulate_attend_backward(void* device, int multiprocessors, int kind, const int64_t* sizes,
                            int pool, const double* curve, const void* features, const void* logits,
                            const void* grad_out, const void* grad_mask_sum, void* grad_features,
                            void* grad_logits, char* message, int message_size) {
  return guarded(message, message_size, [&] {
    const AttendBackward op{{sizes[0], sizes[1], sizes[2], sizes[3]},
                            pool != 0,
                            {curve[0], curve[1]},
                            features,
                            logits,
                            grad_out,
                            grad_mask_sum,
                            grad_features,
                            grad_logits};
    run_attend_backward(*static_cast<Device*>(device), multiprocessors, op, ScalarKind(kind));
  });
}

// Every bit pattern of a 16-bit type as float, and floats rounded to it.
void emulate_widening(int kind, float* values) {
  for (int i = 0; i < 65536; ++i) {
    if (ScalarKind(kind) == ScalarKind::kHalf) {
      values[i] = to_acc(Half{uint16_t(i)});
    } else {
      values[i] = to_acc(BFloat16{uint16_t(i)});
    }
  }
}
void emulate_rounding(int kind, const float* values, uint16_t* bits, int count) {
  for (int i = 0; i < count; ++i) {
    bits[i] = ScalarKind(kind) == ScalarKind::kHalf ? from_acc<Half>(values[i]).bits
                                                    : from_acc<BFloat16>(values[i]).bits;
  }
}

// Kernels with a known mistake; `data` holds 64 floats.
int emulate_planted_bug(void* device, const char* bug, float* data, char* message,
                        int message_size) {
  return guarded(message, message_size,
                 [&] { run_planted_bug(*static_cast<Device*>(device), bug, data); });
}
}
