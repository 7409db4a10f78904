// tone_curve and its backward: value by value, 16 bytes at a time where all tensors are aligned
// alike, their first and last values one by one.
#pragma once

#include "common/tone_curve.h"
#include "cuda/attend/plan.h"
#include "cuda/device.cuh"

namespace fastcam {

inline constexpr int kToneThreads = 256;
// Vectors in flight of one thread, backward of each of two tensors.
template <bool kBackward>
inline constexpr int kToneUnroll = kBackward ? 2 : 4;

struct ToneWork {
  bool vectors;
  int misalignment;  // values between the aligned address below the data and the data
};

template <class S, bool kBackward, int V>
FASTCAM_DEVICE void tone_curve_block(const ToneCurveOp& op, int misalignment) {
  using Acc = AccOf<S>;
  using Vector = Vec<S, V>;
  constexpr int kUnroll = kToneUnroll<kBackward>;
  using Curve = std::conditional_t<kBackward, MaskToneSlope<Acc>, MaskTone<Acc>>;
  const S* mask = static_cast<const S*>(op.mask);
  const S* grad = static_cast<const S*>(op.grad);
  S* out = static_cast<S*>(op.out);
  const Curve curve(op.curve);
  const auto value_of = [&](S m, S g) {
    const Acc value = curve(to_acc(m));
    return from_acc<S>(kBackward ? to_acc(g) * value : value);
  };

  const int64_t block = int64_t(blockIdx.x) * (kToneThreads * kUnroll);
  const auto begin_of = [&](int u) {
    return (block + u * kToneThreads + int(threadIdx.x)) * V - misalignment;
  };
  const auto whole = [&](int64_t begin) { return begin >= 0 && begin + V <= op.count; };
  Vector m[kUnroll];
  Vector g[kUnroll];
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const int64_t begin = begin_of(u);
    if (!whole(begin)) continue;
    m[u] = load(reinterpret_cast<const Vector*>(mask + begin));
    if constexpr (kBackward) g[u] = load(reinterpret_cast<const Vector*>(grad + begin));
  }
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const int64_t begin = begin_of(u);
    if (whole(begin)) {
      Vector result;
#pragma unroll
      for (int e = 0; e < V; ++e) {
        result.lane[e] = value_of(m[u].lane[e], kBackward ? g[u].lane[e] : m[u].lane[e]);
      }
      store(reinterpret_cast<Vector*>(out + begin), result);
    } else if (V > 1) {
#pragma unroll 1
      for (int e = 0; e < V; ++e) {
        const int64_t i = begin + e;
        if (i < 0 || i >= op.count) continue;
        const S value = load(mask + i);
        store(out + i, value_of(value, kBackward ? load(grad + i) : value));
      }
    }
  }
}

template <class S, bool kBackward>
__global__ void __launch_bounds__(kToneThreads, 3)
    tone_curve_kernel(const ToneCurveOp op, const ToneWork work) {
  if (work.vectors) {
    tone_curve_block<S, kBackward, kVectorOf<S>>(op, work.misalignment);
  } else {
    tone_curve_block<S, kBackward, 1>(op, 0);
  }
}

}  // namespace fastcam
