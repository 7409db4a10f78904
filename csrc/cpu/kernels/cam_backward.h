// The backward of grad_cam and of the losses on the CPU, for the instruction set FASTCAM_ISA.
#pragma once

#include "cpu/kernels/cam_maps.h"

namespace fastcam::FASTCAM_ISA {

// d loss / d D, channels first. `map_grad` is G, [T, padded P], with zeros behind the last cell;
// meanwhile what lies `ahead` bytes further is fetched.
template <class Acc, class S>
FASTCAM_INLINE void sums_channels_first(const CamBackward& op, const S* a, const uint8_t* on,
                                        const Acc* map_grad, Acc* grad_d, ChannelRange range,
                                        int64_t ahead) {
  constexpr int L = kLanes<Acc>;
  const int64_t C = op.channels;
  const int64_t P = op.cells;
  const int64_t whole = P / L * L;
  const int64_t row = padded<Acc>(P);
  // `kRows` channels a round, so that as many sums go on at the same time.
  const auto round = [&]<int kRows>(std::integral_constant<int, kRows>, int64_t c) {
    const S* rows[kRows];
    for (int j = 0; j < kRows; ++j) {
      rows[j] = a + (c + j) * P;
      prefetch_further(rows[j], P * int64_t(sizeof(S)), ahead);
    }
    // Past the row's end the load may touch the next row of this sample, but nothing beyond it.
    const bool spare = c + kRows < C && P >= L;
    for (int64_t t = 0; t < op.targets; ++t) {
      Vec<Acc> sum[kRows] = {};
      if (on[t]) {
        const Acc* g = map_grad + t * row;
        for (int64_t p = 0; p < whole; p += L) {
          const Vec<Acc> times = load(g + p);
          for (int j = 0; j < kRows; ++j) sum[j] += times * load(rows[j] + p);
        }
        if (whole < P) {
          const Vec<Acc> times = load(g + whole);
          for (int j = 0; j < kRows; ++j) {
            const S* rest = rows[j] + whole;
            sum[j] += times * (spare ? keep_first<Acc>(load(rest), P - whole)
                                     : load_partial<Acc>(rest, P - whole));
          }
        }
      }
      Acc total[kRows] = {};
      if constexpr (kRows == 4) {
        add_four_sums<Acc>(sum, total);
      } else {
        for (int j = 0; j < kRows; ++j) total[j] = horizontal_sum<Acc>(sum[j]);
      }
      for (int j = 0; j < kRows; ++j) grad_d[t * C + c + j] = total[j] / Acc(P);
    }
  };
  int64_t c = range.begin;
  for (; c + 4 <= range.end; c += 4) round(std::integral_constant<int, 4>{}, c);
  for (; c < range.end; ++c) round(std::integral_constant<int, 1>{}, c);
}

// The same channels last: cell by cell over this block's channels, a few cells for one load and
// store of the sums.
template <class Acc, class S>
FASTCAM_INLINE void sums_channels_last(const CamBackward& op, const S* a, const uint8_t* on,
                                       const Acc* map_grad, Acc* grad_d, ChannelRange range,
                                       int64_t ahead) {
  const int64_t C = op.channels;
  const int64_t P = op.cells;
  const int64_t row = padded<Acc>(P);
  const auto round = [&]<int kCells>(std::integral_constant<int, kCells>, int64_t p) {
    const bool first = p == 0;
    const bool last = p + kCells == P;
    const auto add = [&](int64_t c, const auto& read, const auto& write) {
      Vec<Acc> value[kCells];
      for (int j = 0; j < kCells; ++j) {
        value[j] = read(a + (p + j) * C + c);
      }
      for (int64_t t = 0; t < op.targets; ++t) {
        Vec<Acc> sum{};
        if (on[t]) {
          if (!first) sum = read(grad_d + t * C + c);
          for (int j = 0; j < kCells; ++j) sum += map_grad[t * row + p + j] * value[j];
          if (last) sum /= Acc(P);
        }
        write(grad_d + t * C + c, sum);
      }
    };
    const int64_t width = range.end - range.begin;
    for (int j = 0; j < kCells; ++j) {
      prefetch_further(a + (p + j) * C + range.begin, width * int64_t(sizeof(S)), ahead);
    }
    over_channels<Acc>(range.begin, range.end, add);
  };
  int64_t p = 0;
  for (; p + 4 <= P; p += 4) round(std::integral_constant<int, 4>{}, p);
  for (; p < P; ++p) round(std::integral_constant<int, 1>{}, p);
}

// out[i, j] = sum_t u[t, i] v[t, j]: dA of one sample, rows i of `width` contiguous values.
template <class Acc>
struct OuterProduct {
  const Acc* u;
  int64_t u_stride;
  const Acc* v;
  int64_t v_stride;
  int64_t targets;
  int64_t width;

  FASTCAM_INLINE Vec<Acc> at(int64_t i, int64_t j) const {
    Vec<Acc> sum{};
    for (int64_t t = 0; t < targets; ++t) sum += u[t * u_stride + i] * load(v + t * v_stride + j);
    return sum;
  }
  template <class S>
  FASTCAM_INLINE void write_row(int64_t i, S* out) const {
    constexpr int L = kLanes<Acc>;
    if (width < L) {
      Vec<Acc> sum{};
      for (int64_t t = 0; t < targets; ++t) {
        sum += u[t * u_stride + i] * load_partial<Acc>(v + t * v_stride, width);
      }
      store_partial<Acc>(out, sum, width);
      return;
    }
    int64_t j = 0;
    for (; j + L <= width; j += L) {
      prefetch_ahead_to_write(out + j);
      store(out + j, at(i, j));
    }
    if (j < width) store(out + width - L, at(i, width - L));  // part of it once more
  }
};

// G of one pair, from what a loss has stored or from grad_cam's map (params.h).
template <class Acc>
FASTCAM_INLINE void map_gradients(const CamBackward& op, int64_t n, int64_t t, bool on, Acc* to) {
  const int64_t P = op.cells;
  const int64_t pair = n * op.targets + t;
  if (op.cam == nullptr) {
    const Acc* from = static_cast<const Acc*>(op.grad_map) + pair * P;
    const Acc scale = op.scale == nullptr ? Acc(1) : static_cast<const Acc*>(op.scale)[pair];
    for (int64_t p = 0; p < P; ++p) to[p] = on ? scale * from[p] : Acc(0);
    return;
  }
  const Acc* cam = static_cast<const Acc*>(op.cam) + pair * P;
  const Acc* grad = op.grad.of<Acc>(n, t);
  for (int64_t row = 0, p = 0; p < P; ++row) {
    for (int64_t col = 0; col < op.cols; ++col, ++p) {
      to[p] = grad[row * op.grad_stride_h + col * op.grad_stride_w];
    }
  }
  Peak<Acc> peak{cam[0], 0};
  Acc weighted = 0;
  for (int64_t p = 0; op.normalize && p < P; ++p) {
    peak = higher_peak(peak, {cam[p], typename Peak<Acc>::Cell(p)});
    weighted += to[p] * cam[p];
  }
  const Acc divisor = op.normalize ? map_divisor(static_cast<const Acc*>(op.peak)[pair]) : Acc(1);
  for (int64_t p = 0; p < P; ++p) {
    to[p] = map_gradient(cam[p], to[p], weighted, op.normalize && p == peak.cell, divisor);
  }
}

template <class Acc, class S>
void cam_backward(const CamBackward& op, int64_t channel_blocks, int64_t begin, int64_t end,
                  void* scratch, int64_t ahead = kPrefetchBytes) {
  const int64_t T = op.targets;
  const int64_t C = op.channels;
  const int64_t P = op.cells;
  const int64_t row = padded<Acc>(P);
  Acc* map_grad = static_cast<Acc*>(scratch);
  uint8_t* on = reinterpret_cast<uint8_t*>(map_grad + T * row);
  int64_t held = -1;  // the sample whose map gradients are in the scratch
  for (int64_t item = begin; item < end; ++item) {
    const int64_t n = item / channel_blocks;
    const int64_t block = item % channel_blocks;
    if (n != held) {
      held = n;
      for (int64_t t = 0; t < T; ++t) {
        const int64_t pair = n * T + t;
        on[t] = op.status == nullptr || (op.status[pair] & kStatusValid) != 0;
        Acc* to = map_grad + t * row;
        map_gradients(op, n, t, on[t] != 0, to);
        for (int64_t p = P; p < row; ++p) to[p] = Acc(0);
      }
    }
    const ChannelRange range = channel_range<Acc>(C, channel_blocks, block);
    const S* a = static_cast<const S*>(op.activations) + n * op.activations_stride_n;
    const Acc* alpha = static_cast<const Acc*>(op.alpha) + n * T * C;
    if (op.grad_gradients != nullptr) {
      Acc* grad_d = static_cast<Acc*>(op.grad_gradients) + n * T * C;
      if (op.activations_channels_last) {
        sums_channels_last(op, a, on, map_grad, grad_d, range, ahead);
      } else {
        sums_channels_first(op, a, on, map_grad, grad_d, range, ahead);
      }
    }
    if (op.grad_activations != nullptr) {
      S* da = static_cast<S*>(op.grad_activations) + n * C * P;
      if (op.activations_channels_last) {
        const auto [c, c_end] = range;
        const OuterProduct<Acc> product{map_grad, row, alpha + c, C, T, c_end - c};
        for (int64_t p = 0; p < P; ++p) product.write_row(p, da + p * C + c);
      } else {
        const OuterProduct<Acc> product{alpha, C, map_grad, row, T, P};
        for (int64_t c = range.begin; c < range.end; ++c) product.write_row(c, da + c * P);
      }
    }
  }
}

}  // namespace fastcam::FASTCAM_ISA
