// attend forward in one launch: Z = (1 + g(sigmoid(L); n, beta)) F under several curves, or its
// mean over the cells, and sum_{c,p} sigmoid(L), from one read of L.
//
// A warp has a row of F in registers and goes over all attributes, the loads of a few in flight at
// once; only the sums at the end wait for other warps. The masks' sums of a sample's
// blocks are added up by the last of them.
#pragma once

#include <cmath>

#include "cuda/attend/curve.cuh"
#include "cuda/attend/row.cuh"

namespace fastcam {

template <class Acc>
struct AttendForwardWork {
  AttendPlan plan;
  int first_curve;    // of the op's
  int curves;         // of this launch
  unsigned* tickets;  // [N, splits] zeros
  void* mask_parts;   // [N, tiles, K] acc
  AttendCurve<Acc> curve[kCurvesPerLaunch];
};

// What a block has: some attributes of some channels of a sample. (opaque(): decoded where it is
// used, not held in registers all along.)
template <class Acc>
struct ForwardPart {
  int n, split, tile;
  int first_k, attributes;
  int first_channel, channels;
  Acc* sums;  // [masks, curve after curve][attributes, warps], shared
  int k_stride, index_stride;

  FASTCAM_DEVICE ForwardPart(const AttendShape& shape, const AttendPlan& plan) {
    // blockIdx: attributes fastest, so that blocks that share features run together.
    const int block = opaque(int(blockIdx.x));
    split = block % plan.splits;
    n = block / plan.splits / plan.tiles;
    tile = block / plan.splits - n * plan.tiles;
    first_k = split * plan.attributes;
    attributes = int(shape.attributes) - first_k;
    if (attributes > plan.attributes) attributes = plan.attributes;
    first_channel = tile * plan.warps;
    channels = int(shape.channels) - first_channel;
    if (channels > plan.warps) channels = plan.warps;
    sums = reinterpret_cast<Acc*>(static_cast<char*>(shared_memory()) + 16);
    k_stride = plan.warps;
    index_stride = plan.attributes * plan.warps;
  }
  FASTCAM_DEVICE Acc* sums_of(int index, int k) const {
    return sums + index * index_stride + k * k_stride;
  }
};

// A warp's row, or its piece from the cell `first` on.
template <class S, bool kPool, bool kSeveral, int kRounds>
FASTCAM_DEVICE void attend_forward_row(const AttendForward& op,
                                       const AttendForwardWork<AccOf<S>>& work, int first) {
  using Acc = AccOf<S>;
  constexpr int A = kAtOnce<kRounds>;
  const ForwardPart<Acc> part(op.shape, work.plan);
  const int warp = int(threadIdx.x) / kWarp;
  const int lane = int(threadIdx.x) % kWarp;
  if (warp >= part.channels) return;
  const int cells = int(op.shape.cells);
  const int C = int(op.shape.channels);
  const int K = int(op.shape.attributes);
  const int channel = part.first_channel + warp;
  const int64_t out_curve = op.shape.batch * K * C * cells;  // not pooled

  const S* features =
      static_cast<const S*>(op.features) + (int64_t(part.n) * C + channel) * cells + first;
  const S* logits = static_cast<const S*>(op.logits) + part.n * op.strides.n +
                    part.first_k * op.strides.k + channel * op.strides.c + first;
  RowOfWarp<kRounds> row(features,
                         cells - first < work.plan.piece ? cells - first : work.plan.piece);
  S f[kRounds];
  row.read(features, S{}, f);
  const int64_t image = int64_t(work.first_curve) * op.shape.batch + part.n;
  S* out = static_cast<S*>(op.out) + ((image * K + part.first_k) * C + channel) * cells + first +
           row.cell;

#pragma unroll 1
  for (int k = 0; k < part.attributes; k += A) {
    row.here = opaque(row.here);  // tests again: answers held in registers cost more
    S x[A][kRounds];
#pragma unroll
    for (int a = 0; a < A; ++a) {
      if (k + a < part.attributes) {
        row.read(logits + a * op.strides.k, from_acc<S>(Acc(-INFINITY)), x[a]);  // no mask there
      }
    }
    // u of a row; returns sum sigmoid(L) = (logits >= 0) + sum +-u / 2.
    const auto lower_masks = [&](int a, Acc(&u)[kRounds]) {
      int negative = 0;
      Acc twice = Acc(0);
#pragma unroll
      for (int i = 0; i < kRounds; ++i) {
        const Acc logit = to_acc(x[a][i]);
        u[i] = twice_lower_mask(logit);
        negative += sign_bit(logit);
        twice -= copy_sign(u[i], logit);
      }
      return Acc(0.5) * twice + Acc(kRounds - negative);
    };
    // Z of a row, or its sum.
    const auto attended = [&](int j, int a, const AttendCurve<Acc>& curve, const Acc(&t)[kRounds]) {
      Acc sum = Acc(0);
      S* to = kPool ? nullptr : opaque(out + j * out_curve + int64_t(a) * C * cells);
#pragma unroll
      for (int i = 0; i < kRounds; ++i) {
        const Acc z = curve.factor(to_acc(x[a][i]), t[i]) * to_acc(f[i]);
        if constexpr (kPool) {
          sum += z;
        } else {
          store_if(k + a < part.attributes && row.has(i), to + i * kWarp, from_acc<S>(z));
        }
      }
      return sum;
    };
    // Each A lanes' sums are of one index.
    const auto keep = [&](int index, auto& values) {
      constexpr int kCount = int(sizeof(values) / sizeof(Acc));
      constexpr int kLeaders = kWarp / kCount;
      const Acc sum = warp_sums(values);
      const int value = lane / kLeaders;
      const int at = k + value % A;
      if (lane % kLeaders == 0 && at < part.attributes) {
        Acc& kept = part.sums_of(index + value / A, at)[warp];
        kept = first == 0 ? sum : kept + sum;
      }
    };

    if constexpr (kSeveral) {
      Acc u[A][kRounds];
      Acc log2_u[A][kRounds];
      Acc masks[A];
#pragma unroll
      for (int a = 0; a < A; ++a) {
        masks[a] = lower_masks(a, u[a]);
        log2_lower_masks(x[a], u[a], log2_u[a]);
      }
      keep(0, masks);
#pragma unroll 1
      for (int j = 0; j < work.curves; ++j) {
        const AttendCurve<Acc>& curve = work.curve[j];
        Acc z[A];
#pragma unroll
        for (int a = 0; a < A; ++a) {
          Acc t[kRounds];
          curve.raise(u[a], log2_u[a], t);
          z[a] = attended(j, a, curve, t);
        }
        keep(1 + j, z);
      }
    } else {
      Acc both[kPool ? 2 * A : A];  // masks, and pooled Z
#pragma unroll
      for (int a = 0; a < A; ++a) {
        Acc u[kRounds];
        Acc t[kRounds];
        both[a] = lower_masks(a, u);
#pragma unroll 1
        for (int j = 0; j < (kPool ? 1 : work.curves); ++j) {
          work.curve[j].raise_logits(x[a], u, t);
          const Acc z = attended(j, a, work.curve[j], t);
          if constexpr (kPool) both[A + a] = z;
        }
      }
      keep(0, both);
    }
    logits += A * op.strides.k;
    out += int64_t(A) * C * cells;
  }
}

// From the sums of the rows: means, and the masks' sums of all channels.
template <class S, bool kPool>
FASTCAM_DEVICE void attend_forward_sums(const AttendForward& op,
                                        const AttendForwardWork<AccOf<S>>& work) {
  using Acc = AccOf<S>;
  const ForwardPart<Acc> part(op.shape, work.plan);
  const int thread = int(threadIdx.x);
  const int threads = int(blockDim.x);
  const int tiles = work.plan.tiles;
  const int K = int(op.shape.attributes);
  if constexpr (kPool) {
    const Acc cells = Acc(op.shape.cells);
#pragma unroll 1
    for (int i = thread; i < work.curves * part.attributes * part.channels; i += threads) {
      const int c = i % part.channels;
      const int j = i / part.channels / part.attributes;
      const int k = i / part.channels - j * part.attributes;
      const int64_t image = (work.first_curve + j) * op.shape.batch + part.n;
      S* out = static_cast<S*>(op.out) + (image * K + part.first_k + k) * op.shape.channels;
      store(out + part.first_channel + c, from_acc<S>(part.sums_of(1 + j, k)[c] / cells));
    }
  }
  Acc* of_tiles = static_cast<Acc*>(work.mask_parts) + int64_t(part.n) * tiles * K + part.first_k;
#pragma unroll 1
  for (int k = thread; k < part.attributes; k += threads) {
    Acc sum = Acc(0);
#pragma unroll 1
    for (int c = 0; c < part.channels; ++c) sum += part.sums_of(0, k)[c];
    store(of_tiles + int64_t(part.tile) * K + k, sum);
  }
  unsigned* ticket = work.tickets + part.n * work.plan.splits + part.split;
  if (last_block(ticket, unsigned(tiles), static_cast<unsigned*>(shared_memory()))) {
    Acc* to = static_cast<Acc*>(op.mask_sum) + int64_t(part.n) * K + part.first_k;
#pragma unroll 1
    for (int k = thread; k < part.attributes; k += threads) {
      Acc sum = Acc(0);
#pragma unroll 1
      for (int t = 0; t < tiles; ++t) sum += load_fresh(of_tiles + int64_t(t) * K + k);
      store(to + k, sum);
    }
  }
}

template <class Acc, bool kPool, bool kSeveral>
inline constexpr int kForwardBlocks =
    kPool && !kSeveral ? kAttendBlocks<Acc> : kAttendFewBlocks<Acc>;
template <class S, bool kPool, int kRounds>
inline constexpr int kBlocksLess =
    kMoreRegisters && sizeof(S) == 2 && kPool && kRounds == kLongRounds ? 1 : 0;

// kSeveral: pooled under several curves, which share u and its logarithm.
template <class S, bool kPool, bool kSeveral, int kRounds>
__global__ void __launch_bounds__(kAttendWarps* kWarp, (kForwardBlocks<AccOf<S>, kPool, kSeveral> -
                                                        kBlocksLess<S, kPool, kRounds>))
    attend_forward_kernel(const AttendForward op, const AttendForwardWork<AccOf<S>> work) {
#pragma unroll 1
  for (int first = 0; first < int(op.shape.cells); first += work.plan.piece) {
    attend_forward_row<S, kPool, kSeveral, kRounds>(op, work, first);
  }
  __syncthreads();
  attend_forward_sums<S, kPool>(op, work);
}

}  // namespace fastcam
