// The parameters of every kernel of fastcam: plain structs, no torch, one source for CPU and CUDA.
//
// Symbols: N batch, T targets, C channels, P = H*W cells of the activations,
// Q = H'*W' cells of the gradients (P and Q need not agree). "acc" is the arithmetic type of a
// call: double when an input is double, float otherwise.
#pragma once

#include <cstdint>

#include "common/scalar.h"

namespace fastcam {

// Which loss of the map; losses.h has them, and what their parameters are.
enum class LossKind : int32_t;
inline constexpr int kMaxLossParams = 4;

// A loss as a call names it: its parameters in its policy's order, and the map's H and W.
struct LossParams {
  double value[kMaxLossParams];
  int32_t rows;
  int32_t cols;
};

// Bits of the status byte of a pair (n, t).
inline constexpr uint8_t kStatusValid = 1;
inline constexpr uint8_t kStatusDead = 2;  // valid, and its map is zero everywhere

// Where the values of the pairs lie, one block of them for each pair. Strides are in values, and
// may be 0.
struct PairView {
  const void* data;
  int64_t stride_n;
  int64_t stride_t;

  // The first value of the pair (n, t).
  template <class T>
  FASTCAM_HD const T* of(int64_t n, int64_t t) const {
    return static_cast<const T*>(data) + n * stride_n + t * stride_t;
  }
};

// A and D as they lie in memory. Either the cells of one channel are contiguous (channels first) or
// the channels of one cell are (channels last); only the outer strides are free.
struct CamInputs {
  int64_t batch;       // N
  int64_t targets;     // T
  int64_t channels;    // C
  int64_t cells;       // P
  int64_t grad_cells;  // Q

  const void* activations;  // [N, C, P], channels last: [N, P, C]
  int64_t activations_stride_n;
  bool activations_channels_last;

  PairView gradients;  // [N, T, C, Q], channels last: [N, T, Q, C]
  bool gradients_channels_last;
};

// grad_cam: the map itself.
struct CamForward {
  CamInputs in;
  bool normalize;
  void* alpha;  // [N, T, C] acc, out: channel weights
  void* cam;    // [N, T, P] acc, out: ReLU map, divided by its peak if `normalize`
  void* peak;   // [N, T] acc, out: max of the ReLU map
};

// A loss of the map, with everything backward needs.
struct CamLoss {
  CamInputs in;

  PairView regions;       // [N, T, P] acc
  PairView cell_weights;  // [N, T, P] acc, or without data (all ones)
  PairView where;         // [N, T] uint8_t, nonzero: on; or without data (all on)

  LossKind kind;
  LossParams params;
  double max_pull;  // a pair's sum of |d loss / d x| is cut down to this in the gradient; 0: never

  void* alpha;      // [N, T, C] acc, out: channel weights; 0 for an invalid pair
  void* grad_map;   // [N, T, P] acc, out: d loss[n,t] / d (map before ReLU); 0 for an invalid pair
  void* loss;       // [N, T] acc, out
  uint8_t* status;  // [N, T] out: kStatusValid | kStatusDead
};

// The backward of both, from G = d loss / d (map before ReLU):
//   grad_activations[n,c,p] = sum_t G[n,t,p] * alpha[n,t,c]
//   grad_gradients[n,t,c]   = sum_p G[n,t,p] * A[n,c,p] / P     (the same for every cell of D)
// G is a loss's grad_map, 0 for an invalid pair, or made of grad_cam's map and its upstream
// gradient.
struct CamBackward {
  int64_t batch;
  int64_t targets;
  int64_t channels;
  int64_t cells;

  const void* activations;  // as in CamInputs
  int64_t activations_stride_n;
  bool activations_channels_last;

  const void* alpha;  // [N, T, C] acc

  // of a loss
  const void* grad_map;   // [N, T, P] acc
  const void* scale;      // [N, T] acc: what grad_map is multiplied by; or null
  const uint8_t* status;  // [N, T] or null (all valid)

  // of grad_cam
  const void* cam;   // [N, T, P] acc, as it was returned; null: G is grad_map
  const void* peak;  // [N, T] acc: max of the ReLU map
  PairView grad;     // [N, T, H, W] acc: d loss / d cam
  int64_t grad_stride_h;
  int64_t grad_stride_w;
  int64_t cols;  // W
  bool normalize;

  void* grad_activations;  // [N, C, P] dense in A's layout and dtype, out, or null
  void* grad_gradients;    // [N, T, C] acc, out, or null
};

// What is made of the losses of all valid pairs.
enum class Reduction : int32_t { kNone = 0, kMean = 1, kSum = 2 };

// A loss of the map and its gradients in one pass over A and D.
struct CamLossForward {
  CamLoss loss;
  Reduction reduction;
  void* grad_gradients;  // [N, T, C] acc, out, or null: d loss[n,t] / d D[n,t,c,q], whatever q
  void* reduced;         // acc, out, unless kNone: sum or mean of the losses
  void* count;           // acc, out, unless kNone: how many pairs are valid
};

// The backward that makes a pass's grad_gradients once its grad_map is there.
inline CamBackward sums_of_gradients(const CamLossForward& op) {
  const CamLoss& loss = op.loss;
  CamBackward sums{};
  sums.batch = loss.in.batch;
  sums.targets = loss.in.targets;
  sums.channels = loss.in.channels;
  sums.cells = loss.in.cells;
  sums.activations = loss.in.activations;
  sums.activations_stride_n = loss.in.activations_stride_n;
  sums.activations_channels_last = loss.in.activations_channels_last;
  sums.alpha = loss.alpha;
  sums.grad_map = loss.grad_map;
  sums.status = loss.status;
  sums.grad_gradients = op.grad_gradients;
  return sums;
}

// The backward of that, which reads nothing of A's size. A pair's upstream gradient is
// g[n,t] = grad[n,t] / max(count, 1), and 0 if the pair is invalid:
//   grad_activations[n,c,p] = sum_t g[n,t] grad_map[n,t,p] alpha[n,t,c]
//   scaled_gradients[n,t,c] = g[n,t] grad_gradients[n,t,c]
struct CamLossBackward {
  int64_t batch;
  int64_t targets;
  int64_t channels;
  int64_t cells;
  bool channels_last;

  const void* alpha;           // [N, T, C] acc
  const void* grad_map;        // [N, T, P] acc
  const void* grad_gradients;  // [N, T, C] acc or null
  const uint8_t* status;       // [N, T]
  PairView grad;               // [N, T] acc
  const void* count;           // acc or null (divide by 1)

  void* grad_activations;  // [N, C, P] dense, out, or null
  void* scaled_gradients;  // [N, T, C] acc, out, or null
};

// Kimura & Tanaka, eq. 7 and 8: g = (1 + beta) h(M; n) - beta.
struct ToneCurve {
  double n;
  double beta;
};

// tone_curve and its backward, element by element.
struct ToneCurveOp {
  int64_t count;
  ToneCurve curve;
  const void* mask;  // [count]
  const void* grad;  // [count], backward only: d loss / d g
  void* out;         // [count], out: g, or d loss / d mask
};

// attend: Z = (1 + g(sigmoid(L); n, beta)) * F. K attributes; every tensor of one storage type,
// sums in acc; contiguous, but for the logits, whose rows of cells may lie anywhere.
struct AttendShape {
  int64_t batch;       // N
  int64_t attributes;  // K
  int64_t channels;    // C
  int64_t cells;       // P
};

// Where the row (n, k, c) of P logits begins, in values.
struct RowStrides {
  int64_t n, k, c;
};

struct AttendForward {
  AttendShape shape;
  bool pool;
  int64_t curve_count;      // J
  const ToneCurve* curves;  // [J]
  const void* features;     // [N, C, P]
  const void* logits;       // [N, K, C, P]
  RowStrides strides;       // of the logits
  void* out;                // [J, N, K, C, P], pooled: [J, N, K, C], out
  void* mask_sum;           // [N, K] acc, out: sum_{c,p} sigmoid(L)
};

struct AttendBackward {
  AttendShape shape;
  bool pool;
  ToneCurve curve;
  const void* features;       // [N, C, P]
  const void* logits;         // [N, K, C, P]
  RowStrides strides;         // of the logits
  const void* grad_out;       // [N, K, C, P], pooled: [N, K, C]
  const void* grad_mask_sum;  // [N, K] acc, or null
  void* grad_features;        // [N, C, P], out, or null
  void* grad_logits;          // [N, K, C, P], out, or null
  RowStrides grad_strides;    // of it
};

}  // namespace fastcam
