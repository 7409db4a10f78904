// The backward of grad_cam and of the losses on the CPU, for the instruction set FASTCAM_ISA.
#pragma once

#include "cpu/kernels/cam_maps.h"

namespace fastcam::FASTCAM_ISA {

// Channels first: row by row, A is read once, dA written once. `map_grad` is G, [T, padded P], with
// zeros behind the last cell.
template <class Acc, class S>
FASTCAM_INLINE void backward_channels_first(const CamBackward& op, const S* a, S* da,
                                            const Acc* alpha, const uint8_t* on,
                                            const Acc* map_grad, Acc* grad_d, int64_t c_begin,
                                            int64_t c_end) {
  constexpr int L = kLanes<Acc>;
  const int64_t C = op.channels;
  const int64_t P = op.cells;
  const int64_t T = op.targets;
  const int64_t row = padded<Acc>(P);
  for (int64_t c = c_begin; c < c_end; ++c) {
    const S* in = a + c * P;
    // Past the row's end the load may touch the next row of this sample, but nothing beyond it.
    const bool spare = c + 1 < C && P >= L;
    const auto read = [&](int64_t p) FASTCAM_INLINE_LAMBDA {
      if (p + L <= P) return load(in + p);
      return spare ? keep_first<Acc>(load(in + p), P - p) : load_partial<Acc>(in + p, P - p);
    };
    if (grad_d != nullptr) {
      for (int64_t p = 0; p < P; p += L) prefetch_ahead(in + p);
      for (int64_t t = 0; t < T; ++t) {
        Vec<Acc> sum{};
        if (on[t]) {
          const Acc* g = map_grad + t * row;
          for (int64_t p = 0; p < P; p += L) sum += load(g + p) * read(p);
        }
        grad_d[t * C + c] = horizontal_sum<Acc>(sum) / Acc(P);
      }
    }
    if (da != nullptr) {
      S* out = da + c * P;
      const auto sum_at = [&](int64_t p) FASTCAM_INLINE_LAMBDA {
        Vec<Acc> sum{};
        for (int64_t t = 0; t < T; ++t) sum += alpha[t * C + c] * load(map_grad + t * row + p);
        return sum;
      };
      int64_t p = 0;
      for (; p + L <= P; p += L) {
        prefetch_ahead_to_write(out + p);
        store(out + p, sum_at(p));
      }
      if (P < L) {
        store_partial<Acc>(out, sum_at(0), P);
      } else if (p < P) {  // the row's last vector, part of it once more
        store(out + P - L, sum_at(P - L));
      }
    }
  }
}

// Channels last: cell by cell over this block's channels, a few cells for one load and store of the
// sums.
template <class Acc, class S>
FASTCAM_INLINE void backward_channels_last(const CamBackward& op, const S* a, S* da,
                                           const Acc* alpha, const uint8_t* on, const Acc* map_grad,
                                           Acc* grad_d, int64_t c_begin, int64_t c_end) {
  const int64_t C = op.channels;
  const int64_t P = op.cells;
  const int64_t T = op.targets;
  const int64_t row = padded<Acc>(P);
  const auto round = [&]<int kCells>(std::integral_constant<int, kCells>, int64_t p) {
    const bool first = p == 0;
    const bool last = p + kCells == P;
    const auto sum_over_cells = [&](int64_t c, const auto& read, const auto& write) {
      Vec<Acc> value[kCells];
      for (int j = 0; j < kCells; ++j) {
        prefetch_ahead(a + (p + j) * C + c);
        value[j] = read(a + (p + j) * C + c);
      }
      for (int64_t t = 0; t < T; ++t) {
        Vec<Acc> sum{};
        if (on[t]) {
          if (!first) sum = read(grad_d + t * C + c);
          for (int j = 0; j < kCells; ++j) sum += map_grad[t * row + p + j] * value[j];
          if (last) sum /= Acc(P);
        }
        write(grad_d + t * C + c, sum);
      }
    };
    const auto write_products = [&](int64_t c, const auto& read, const auto& write) {
      for (int j = 0; j < kCells; ++j) {
        Vec<Acc> sum{};
        for (int64_t t = 0; t < T; ++t) {
          sum += map_grad[t * row + p + j] * read(alpha + t * C + c);
        }
        prefetch_ahead_to_write(da + (p + j) * C + c);
        write(da + (p + j) * C + c, sum);
      }
    };
    if (grad_d != nullptr) over_channels<Acc>(c_begin, c_end, sum_over_cells);
    if (da != nullptr) over_channels<Acc>(c_begin, c_end, write_products);
  };
  int64_t p = 0;
  for (; p + 4 <= P; p += 4) round(std::integral_constant<int, 4>{}, p);
  for (; p < P; ++p) round(std::integral_constant<int, 1>{}, p);
}

template <class Acc, class S>
void cam_backward(const CamBackward& op, int64_t channel_blocks, int64_t begin, int64_t end,
                  void* scratch) {
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
        const Acc scale =
            op.scale == nullptr
                ? Acc(1)
                : static_cast<const Acc*>(op.scale)[n * op.scale_stride_n + t * op.scale_stride_t];
        const Acc* from = static_cast<const Acc*>(op.grad_map) + pair * P;
        Acc* to = map_grad + t * row;
        for (int64_t p = 0; p < P; ++p) to[p] = on[t] ? scale * from[p] : Acc(0);
        for (int64_t p = P; p < row; ++p) to[p] = Acc(0);
      }
    }
    const auto [c_begin, c_end] = channel_range<Acc>(C, channel_blocks, block);
    const S* a = static_cast<const S*>(op.activations) + n * op.activations_stride_n;
    S* da = op.grad_activations ? static_cast<S*>(op.grad_activations) + n * C * P : nullptr;
    Acc* grad_d = op.grad_gradients ? static_cast<Acc*>(op.grad_gradients) + n * T * C : nullptr;
    const Acc* alpha = static_cast<const Acc*>(op.alpha) + n * T * C;
    if (op.activations_channels_last) {
      backward_channels_last(op, a, da, alpha, on, map_grad, grad_d, c_begin, c_end);
    } else {
      backward_channels_first(op, a, da, alpha, on, map_grad, grad_d, c_begin, c_end);
    }
  }
}

}  // namespace fastcam::FASTCAM_ISA
