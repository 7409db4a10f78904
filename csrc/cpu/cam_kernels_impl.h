// Grad-CAM, its losses and their backward on the CPU, for the instruction set FASTCAM_ISA.
//
// The work of a pair (n, t) is: channel weights alpha from D, the map sum_c alpha_c A_c, and then
// O(P) scalar work. Nearly all of the time goes into moving A, so A is read once for a block of
// kTargetBlock targets, in whichever of its two layouts it comes. Maps are padded to whole vectors;
// the lanes past the last cell hold rubbish that nothing reads.
#include "cam_kernels.h"
#include "vec.h"

#include "../math.cuh"

namespace fastcam::FASTCAM_ISA {

// Both layouts are addressed by the same two strides; one of them is 1.
template <class S>
struct Plane {
  const S* data;
  int64_t channels;
  int64_t cells;
  bool channels_last;
};

template <class Acc>
FASTCAM_INLINE int64_t padded(int64_t count) {
  return (count + kLanes<Acc> - 1) / kLanes<Acc> * kLanes<Acc>;
}

// body(c, read, write) for the vectors of channels [begin, end): the last may be cut.
template <class Acc, class Body>
FASTCAM_INLINE void over_channels(int64_t begin, int64_t end, const Body& body) {
  constexpr int L = kLanes<Acc>;
  int64_t c = begin;
  for (; c + L <= end; c += L) {
    body(
        c, [](const auto* from) __attribute__((always_inline)) { return load(from); },
        [](auto* to, const Vec<Acc>& v) __attribute__((always_inline)) { store(to, v); });
  }
  if (c < end) {
    const int64_t count = end - c;
    body(
        c,
        [&](const auto* from)
            __attribute__((always_inline)) { return load_partial<Acc>(from, count); },
        [&](auto* to, const Vec<Acc>& v)
            __attribute__((always_inline)) { store_partial<Acc>(to, v, count); });
  }
}

// ---- step 1: alpha[c] = sum_q D[c, q] / P
// --------------------------------------------------------

template <class Acc, class S>
FASTCAM_INLINE void channel_weights(const Plane<S>& d, Acc cells, Acc* alpha) {
  constexpr int L = kLanes<Acc>;
  const int64_t C = d.channels;
  const int64_t Q = d.cells;
  if (d.channels_last) {
    // Cell after cell, as D lies in memory; the sums of the channels stay in the first-level cache.
    const auto round = [&]<int kCells>(std::integral_constant<int, kCells>, int64_t q) {
      const S* rows = d.data + q * C;
      const bool first = q == 0;
      const bool last = q + kCells == Q;
      const auto add = [&](int64_t c, const auto& read, const auto& write) {
        Vec<Acc> sum{};
        if (!first) sum = read(alpha + c);
        for (int j = 0; j < kCells; ++j) {
          prefetch_ahead(rows + j * C + c);
          sum += read(rows + j * C + c);
        }
        write(alpha + c, last ? Vec<Acc>(sum / cells) : sum);
      };
      over_channels<Acc>(0, C, add);
    };
    int64_t q = 0;
    for (; q + 4 <= Q; q += 4) round(std::integral_constant<int, 4>{}, q);
    for (; q < Q; ++q) round(std::integral_constant<int, 1>{}, q);
    return;
  }
  const int64_t rest = Q % L;
  const int64_t whole = Q - rest;
  for (int64_t c = 0; c < C; ++c) {
    const S* row = d.data + c * Q;
    Vec<Acc> sum{};
    for (int64_t q = 0; q < whole; q += L) {
      prefetch_ahead(row + q);
      sum += load(row + q);
    }
    if (rest != 0) {
      const bool spare = (C - 1 - c) * Q + rest >= L;  // a whole vector is still inside D
      sum +=
          spare ? keep_first<Acc>(load(row + whole), rest) : load_partial<Acc>(row + whole, rest);
    }
    alpha[c] = horizontal_sum<Acc>(sum) / cells;
  }
}

// ---- step 2: map[t, p] = sum_c alpha[t, c] A[c, p], for `kTargets` targets
// ------------------------

template <int kTargets, class Acc, class S>
FASTCAM_INLINE void maps_channels_first(const Plane<S>& a, const Acc* const* alpha,
                                        Acc* const* map) {
  constexpr int L = kLanes<Acc>;
  const int64_t C = a.channels;
  const int64_t P = a.cells;
  for (int t = 0; t < kTargets; ++t) {
    for (int64_t p = 0; p < P; p += L) store(map[t] + p, Vec<Acc>{});
  }
  // `kRows` channels a round: one load and one store of the map for as many loads of A. A row's
  // last vector may reach into the next row, never beyond the sample's last element.
  const auto round = [&]<int kRows>(std::integral_constant<int, kRows>, int64_t c) {
    const int64_t inside = (C - c - kRows) * P >= L ? P : P / L * L;
    const S* rows[kRows];
    for (int j = 0; j < kRows; ++j) rows[j] = a.data + (c + j) * P;
    const auto add = [&](int64_t p, const auto& read) __attribute__((always_inline)) {
      Vec<Acc> value[kRows];
      for (int j = 0; j < kRows; ++j) {
        prefetch_ahead(rows[j] + p);
        value[j] = read(rows[j] + p);
      }
      for (int t = 0; t < kTargets; ++t) {
        Vec<Acc> sum = load(map[t] + p);
        for (int j = 0; j < kRows; ++j) sum += alpha[t][c + j] * value[j];
        store(map[t] + p, sum);
      }
    };
    int64_t p = 0;
    for (; p < inside; p += L) {
      add(p, [](const S* x) __attribute__((always_inline)) { return load(x); });
    }
    for (; p < P; p += L) {
      add(p,
          [&](const S* x) __attribute__((always_inline)) { return load_partial<Acc>(x, P - p); });
    }
  };
  int64_t c = 0;
  for (; c + 4 <= C; c += 4) round(std::integral_constant<int, 4>{}, c);
  for (; c < C; ++c) round(std::integral_constant<int, 1>{}, c);
}

template <int kTargets, class Acc, class S>
FASTCAM_INLINE void maps_channels_last(const Plane<S>& a, const Acc* const* alpha,
                                       Acc* const* map) {
  constexpr int L = kLanes<Acc>;
  const int64_t C = a.channels;
  for (int64_t p = 0; p < a.cells; ++p) {
    const S* cell = a.data + p * C;
    Vec<Acc> even[kTargets] = {};
    Vec<Acc> odd[kTargets] = {};
    int64_t c = 0;
    for (; c + 2 * L <= C; c += 2 * L) {
      prefetch_ahead(cell + c);
      prefetch_ahead(cell + c + L);
      const Vec<Acc> first = load(cell + c);
      const Vec<Acc> second = load(cell + c + L);
      for (int t = 0; t < kTargets; ++t) {
        even[t] += load(alpha[t] + c) * first;
        odd[t] += load(alpha[t] + c + L) * second;
      }
    }
    for (; c < C; c += L) {
      const int64_t count = C - c < L ? C - c : L;
      const Vec<Acc> value = load_partial<Acc>(cell + c, count);
      for (int t = 0; t < kTargets; ++t) even[t] += load_partial<Acc>(alpha[t] + c, count) * value;
    }
    for (int t = 0; t < kTargets; ++t) map[t][p] = horizontal_sum<Acc>(Vec<Acc>(even[t] + odd[t]));
  }
}

template <int kTargets, class Acc, class S>
FASTCAM_INLINE void maps(const Plane<S>& a, const Acc* const* alpha, Acc* const* map) {
  if (a.channels_last) {
    maps_channels_last<kTargets>(a, alpha, map);
  } else {
    maps_channels_first<kTargets>(a, alpha, map);
  }
}

// Steps 1 and 2 for up to kTargetBlock targets of one sample; `map` rows are padded.
template <class Acc, class SA, class SD>
FASTCAM_INLINE void raw_maps(const CamInputs& in, int64_t n, const int64_t* targets, int count,
                             Acc* alpha_out, Acc* map_rows) {
  const Plane<SA> a{static_cast<const SA*>(in.activations) + n * in.activations_stride_n,
                    in.channels, in.cells, in.activations_channels_last};
  const Acc* alpha[kTargetBlock];
  Acc* map[kTargetBlock];
  for (int i = 0; i < count; ++i) {
    const Plane<SD> d{static_cast<const SD*>(in.gradients) + n * in.gradients_stride_n +
                          targets[i] * in.gradients_stride_t,
                      in.channels, in.grad_cells, in.gradients_channels_last};
    Acc* row = alpha_out + (n * in.targets + targets[i]) * in.channels;
    channel_weights(d, Acc(in.cells), row);
    alpha[i] = row;
    map[i] = map_rows + i * padded<Acc>(in.cells);
  }
  switch (count) {
    case 1: maps<1>(a, alpha, map); break;
    case 2: maps<2>(a, alpha, map); break;
    case 3: maps<3>(a, alpha, map); break;
    default: maps<4>(a, alpha, map); break;
  }
}

// ReLU in place, and the peak (step 3).
template <class Acc>
FASTCAM_INLINE Peak<Acc> rectify(Acc* map, int64_t cells) {
  Peak<Acc> peak{map[0] = relu(map[0]), 0};
  for (int64_t p = 1; p < cells; ++p) {
    map[p] = relu(map[p]);
    if (map[p] > peak.value || (is_nan(map[p]) && !is_nan(peak.value))) {
      peak = {map[p], typename Peak<Acc>::Cell(p)};
    }
  }
  return peak;
}

// ---- grad_cam
// ------------------------------------------------------------------------------------

template <class Acc, class SA, class SD>
void cam_forward(const CamForward& op, int64_t begin, int64_t end, void* scratch) {
  const CamInputs& in = op.in;
  const int64_t P = in.cells;
  Acc* maps = static_cast<Acc*>(scratch);
  for (int64_t n = begin; n < end; ++n) {
    for (int64_t first = 0; first < in.targets; first += kTargetBlock) {
      int64_t targets[kTargetBlock];
      int count = 0;
      for (; count < kTargetBlock && first + count < in.targets; ++count) {
        targets[count] = first + count;
      }
      raw_maps<Acc, SA, SD>(in, n, targets, count, static_cast<Acc*>(op.alpha), maps);
      for (int i = 0; i < count; ++i) {
        Acc* map = maps + i * padded<Acc>(P);
        const int64_t pair = n * in.targets + targets[i];
        const Peak<Acc> peak = rectify(map, P);
        static_cast<Acc*>(op.peak)[pair] = peak.value;
        Acc* cam = static_cast<Acc*>(op.cam) + pair * P;
        const Acc divisor = op.normalize ? map_divisor(peak.value) : Acc(1);
        for (int64_t p = 0; p < P; ++p) cam[p] = map[p] / divisor;
      }
    }
  }
}

// ---- a loss of the map
// ---------------------------------------------------------------------------

// Steps 3 to 5 of one valid pair, and d loss / d (map before ReLU) into `unit`.
template <class Acc, class Loss>
FASTCAM_INLINE uint8_t loss_of_map(const Loss& loss, Acc* map, const Acc* region, const Acc* weight,
                                   int64_t cells, int width, Acc max_pull, Acc* unit, Acc* result) {
  const Peak<Acc> peak = rectify(map, cells);
  const Acc divisor = map_divisor(peak.value);
  const auto each_cell = [&](const auto& visit) __attribute__((always_inline)) {
    for (int64_t p = 0, row = 0; p < cells; ++row) {
      for (int column = 0; column < width; ++column, ++p) {
        visit(p, Cell<Acc>{map[p] / divisor, region[p], weight ? weight[p] : Acc(1), int(row),
                           column});
      }
    }
  };
  Acc sum[Loss::kSums] = {};
  each_cell([&](int64_t, const Cell<Acc>& cell) __attribute__((always_inline)) {
    Acc term[Loss::kSums];
    loss.terms(cell, term);
    for (int j = 0; j < Loss::kSums; ++j) sum[j] += term[j];
  });
  if (!loss.defined(sum)) {
    *result = 0;
    std::memset(unit, 0, size_t(cells) * sizeof(Acc));
    return 0;
  }
  Acc derivative[Loss::kSums];
  *result = loss.combine(sum, derivative);
  Acc pull = 0;
  Acc slopes = 0;
  each_cell([&](int64_t p, const Cell<Acc>& cell) __attribute__((always_inline)) {
    unit[p] = loss.slope(cell, derivative);
    pull += unit[p] * cell.x;
    slopes += abs_(unit[p]);
  });
  const Acc cut = pull_cut(slopes, max_pull);
  for (int64_t p = 0; p < cells; ++p) {
    unit[p] = cut * map_gradient(map[p], unit[p], pull, p == peak.cell, divisor);
  }
  return kStatusValid | (peak.value == Acc(0) ? kStatusDead : 0);
}

template <class Acc>
FASTCAM_INLINE bool region_is_empty(const Acc* region, const Acc* weight, int64_t cells) {
  Acc total = 0;
  for (int64_t p = 0; p < cells; ++p) total += weight ? weight[p] * region[p] : region[p];
  return total == Acc(0);  // NaN is not empty: it is to be seen in the loss
}

template <class Acc, class SA, class SD, class Loss>
void cam_loss_forward(const CamLossForward& op, const Loss& loss, int64_t begin, int64_t end,
                      void* scratch) {
  const CamInputs& in = op.in;
  const int64_t P = in.cells;
  Acc* maps = static_cast<Acc*>(scratch);
  Acc* losses = static_cast<Acc*>(op.loss);
  const auto region = [&](int64_t n, int64_t t) {
    return static_cast<const Acc*>(op.regions) + n * op.regions_stride_n + t * op.regions_stride_t;
  };
  const auto weight = [&](int64_t n, int64_t t) -> const Acc* {
    if (op.cell_weights == nullptr) return nullptr;
    return static_cast<const Acc*>(op.cell_weights) + n * op.cell_weights_stride_n +
           t * op.cell_weights_stride_t;
  };
  const auto unit = [&](int64_t pair) { return static_cast<Acc*>(op.unit) + pair * P; };
  for (int64_t n = begin; n < end; ++n) {
    int64_t block[kTargetBlock];
    int count = 0;
    const auto flush = [&] {
      if (count == 0) return;
      raw_maps<Acc, SA, SD>(in, n, block, count, static_cast<Acc*>(op.alpha), maps);
      for (int i = 0; i < count; ++i) {
        const int64_t pair = n * in.targets + block[i];
        op.status[pair] =
            loss_of_map(loss, maps + i * padded<Acc>(P), region(n, block[i]), weight(n, block[i]),
                        P, op.params.cols, Acc(op.max_pull), unit(pair), losses + pair);
        if (op.status[pair] == 0) {
          std::memset(static_cast<Acc*>(op.alpha) + pair * in.channels, 0,
                      size_t(in.channels) * sizeof(Acc));
        }
      }
      count = 0;
    };
    for (int64_t t = 0; t < in.targets; ++t) {
      const int64_t pair = n * in.targets + t;
      const bool off = op.where && op.where[n * op.where_stride_n + t * op.where_stride_t] == 0;
      if (off || region_is_empty(region(n, t), weight(n, t), P)) {
        op.status[pair] = 0;
        losses[pair] = 0;
        std::memset(unit(pair), 0, size_t(P) * sizeof(Acc));
        std::memset(static_cast<Acc*>(op.alpha) + pair * in.channels, 0,
                    size_t(in.channels) * sizeof(Acc));
        continue;
      }
      block[count++] = t;
      if (count == kTargetBlock) flush();
    }
    flush();
  }
}

template <class Acc, class SA, class SD>
void cam_iou_forward(const CamLossForward& op, int64_t begin, int64_t end, void* scratch) {
  visit_loss<Acc>(op.kind, op.params, [&](const auto& loss) {
    cam_loss_forward<Acc, SA, SD>(op, loss, begin, end, scratch);
  });
}

// ---- backward
// ------------------------------------------------------------------------------------

// Channels first: row by row, A is read once, dA written once. `map_grad` is G, [T, padded P], with
// zeros behind the last cell.
template <class Acc, class S>
FASTCAM_INLINE void backward_channels_first(const CamBackward& op, const S* a, S* da,
                                            const Acc* alpha, const uint8_t* on,
                                            const Acc* map_grad, Acc* dalpha, int64_t c_begin,
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
    const auto read = [&](int64_t p) __attribute__((always_inline)) {
      if (p + L <= P) return load(in + p);
      return spare ? keep_first<Acc>(load(in + p), P - p) : load_partial<Acc>(in + p, P - p);
    };
    if (dalpha != nullptr) {
      for (int64_t p = 0; p < P; p += L) prefetch_ahead(in + p);
      for (int64_t t = 0; t < T; ++t) {
        Vec<Acc> sum{};
        if (on[t]) {
          const Acc* g = map_grad + t * row;
          for (int64_t p = 0; p < P; p += L) sum += load(g + p) * read(p);
        }
        dalpha[t * C + c] = horizontal_sum<Acc>(sum) / Acc(P);
      }
    }
    if (da != nullptr) {
      S* out = da + c * P;
      const auto sum_at = [&](int64_t p) __attribute__((always_inline)) {
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
                                           Acc* dalpha, int64_t c_begin, int64_t c_end) {
  const int64_t C = op.channels;
  const int64_t P = op.cells;
  const int64_t T = op.targets;
  const int64_t row = padded<Acc>(P);
  const auto round = [&]<int kCells>(std::integral_constant<int, kCells>, int64_t p) {
    const bool first = p == 0;
    const bool last = p + kCells == P;
    const auto pull = [&](int64_t c, const auto& read, const auto& write) {
      Vec<Acc> value[kCells];
      for (int j = 0; j < kCells; ++j) {
        prefetch_ahead(a + (p + j) * C + c);
        value[j] = read(a + (p + j) * C + c);
      }
      for (int64_t t = 0; t < T; ++t) {
        Vec<Acc> sum{};
        if (on[t]) {
          if (!first) sum = read(dalpha + t * C + c);
          for (int j = 0; j < kCells; ++j) sum += map_grad[t * row + p + j] * value[j];
          if (last) sum /= Acc(P);
        }
        write(dalpha + t * C + c, sum);
      }
    };
    const auto push = [&](int64_t c, const auto& read, const auto& write) {
      for (int j = 0; j < kCells; ++j) {
        Vec<Acc> sum{};
        for (int64_t t = 0; t < T; ++t) {
          sum += map_grad[t * row + p + j] * read(alpha + t * C + c);
        }
        prefetch_ahead_to_write(da + (p + j) * C + c);
        write(da + (p + j) * C + c, sum);
      }
    };
    if (dalpha != nullptr) over_channels<Acc>(c_begin, c_end, pull);
    if (da != nullptr) over_channels<Acc>(c_begin, c_end, push);
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
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t n = unit / channel_blocks;
    const int64_t block = unit % channel_blocks;
    if (n != held) {
      held = n;
      for (int64_t t = 0; t < T; ++t) {
        const int64_t pair = n * T + t;
        on[t] = op.status == nullptr || (op.status[pair] & kStatusValid) != 0;
        const Acc scale =
            op.scale == nullptr
                ? Acc(1)
                : static_cast<const Acc*>(op.scale)[n * op.scale_stride_n + t * op.scale_stride_t];
        const Acc* from = static_cast<const Acc*>(op.unit) + pair * P;
        Acc* to = map_grad + t * row;
        for (int64_t p = 0; p < P; ++p) to[p] = on[t] ? scale * from[p] : Acc(0);
        for (int64_t p = P; p < row; ++p) to[p] = Acc(0);
      }
    }
    // Blocks start at whole vectors, so that channels-last blocks never share one.
    const int64_t width = padded<Acc>((C + channel_blocks - 1) / channel_blocks);
    const int64_t c_begin = block * width < C ? block * width : C;
    const int64_t c_end = c_begin + width < C ? c_begin + width : C;
    const S* a = static_cast<const S*>(op.activations) + n * op.activations_stride_n;
    S* da = op.grad_activations ? static_cast<S*>(op.grad_activations) + n * C * P : nullptr;
    Acc* dalpha = op.grad_gradients ? static_cast<Acc*>(op.grad_gradients) + n * T * C : nullptr;
    const Acc* alpha = static_cast<const Acc*>(op.alpha) + n * T * C;
    if (op.activations_channels_last) {
      backward_channels_last(op, a, da, alpha, on, map_grad, dalpha, c_begin, c_end);
    } else {
      backward_channels_first(op, a, da, alpha, on, map_grad, dalpha, c_begin, c_end);
    }
  }
}

// ---- run-time types become compile-time ones
// -----------------------------------------------------

// D comes in the activations' storage type or in the arithmetic type.
template <class F>
FASTCAM_INLINE void with_storages(ScalarKind activations, ScalarKind gradients, const F& f) {
  with_storage(activations, [&](auto a) {
    using Acc = AccOf<decltype(a)>;
    if (gradients == activations) {
      f(Acc{}, a, a);
    } else {
      f(Acc{}, a, Acc{});
    }
  });
}

const CamKernels kCamKernels = {
    FASTCAM_ISA_NAME,
    [](const CamForward& op, ScalarKind a, ScalarKind d, int64_t begin, int64_t end,
       void* scratch) {
      with_storages(a, d, [&](auto acc, auto sa, auto sd) {
        cam_forward<decltype(acc), decltype(sa), decltype(sd)>(op, begin, end, scratch);
      });
    },
    [](const CamLossForward& op, ScalarKind a, ScalarKind d, int64_t begin, int64_t end,
       void* scratch) {
      with_storages(a, d, [&](auto acc, auto sa, auto sd) {
        cam_iou_forward<decltype(acc), decltype(sa), decltype(sd)>(op, begin, end, scratch);
      });
    },
    [](const CamBackward& op, ScalarKind a, int64_t channel_blocks, int64_t begin, int64_t end,
       void* scratch) {
      with_storage(a, [&](auto s) {
        cam_backward<AccOf<decltype(s)>, decltype(s)>(op, channel_blocks, begin, end, scratch);
      });
    },
};

}  // namespace fastcam::FASTCAM_ISA
