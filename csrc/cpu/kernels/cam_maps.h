// Channel weights and maps on the CPU, for the instruction set FASTCAM_ISA: alpha from D, the map
// sum_c alpha_c A_c, and grad_cam itself.
//
// Nearly all of the time goes into moving A, so A is read once for a block of kTargetBlock targets,
// in whichever of its two layouts it comes. Maps are padded to whole vectors; the lanes past the
// last cell hold values that nothing reads.
#pragma once

#include "common/losses.h"
#include "cpu/kernels/scratch.h"
#include "cpu/simd/vec.h"

namespace fastcam::FASTCAM_ISA {

struct ChannelRange {
  int64_t begin;
  int64_t end;
};

// Block `block` of `blocks` of C channels. Blocks start at whole vectors, so that channels-last
// blocks never share one.
template <class Acc>
FASTCAM_INLINE ChannelRange channel_range(int64_t channels, int64_t blocks, int64_t block) {
  const int64_t width = padded<Acc>(ceil_div(channels, blocks));
  const int64_t begin = block * width < channels ? block * width : channels;
  return {begin, begin + width < channels ? begin + width : channels};
}

// Some channels of a sample. Channels first, a channel's cells are contiguous and its successor
// follows; channels last, a cell's channels are, and the next cell is `pitch` further.
template <class S>
struct Plane {
  const S* data;
  int64_t channels;
  int64_t cells;
  int64_t pitch;
  bool channels_last;
};

template <class S>
FASTCAM_INLINE Plane<S> plane_of(const void* sample, int64_t channels, int64_t cells,
                                 bool channels_last, ChannelRange range) {
  const S* data = static_cast<const S*>(sample) + range.begin * (channels_last ? 1 : cells);
  return {data, range.end - range.begin, cells, channels, channels_last};
}

// body(c, read, write) for the vectors of channels [begin, end): the last may be cut.
template <class Acc, class Body>
FASTCAM_INLINE void over_channels(int64_t begin, int64_t end, const Body& body) {
  constexpr int L = kLanes<Acc>;
  int64_t c = begin;
  for (; c + L <= end; c += L) {
    body(
        c, [](const auto* from) FASTCAM_INLINE_LAMBDA { return load(from); },
        [](auto* to, const Vec<Acc>& v) FASTCAM_INLINE_LAMBDA { store(to, v); });
  }
  if (c < end) {
    const int64_t count = end - c;
    body(
        c, [&](const auto* from) FASTCAM_INLINE_LAMBDA { return load_partial<Acc>(from, count); },
        [&](auto* to, const Vec<Acc>& v)
            FASTCAM_INLINE_LAMBDA { store_partial<Acc>(to, v, count); });
  }
}

// ---- step 1: alpha[c] = sum_q D[c, q] / P -------------------------------------------------------

template <class Acc, class S>
FASTCAM_INLINE void channel_weights(const Plane<S>& d, Acc cells, Acc* alpha) {
  constexpr int L = kLanes<Acc>;
  const int64_t C = d.channels;
  const int64_t Q = d.cells;
  if (d.channels_last || Q == 1) {
    // Cell after cell, as D lies in memory, also where a channel has but one; the sums of the
    // channels stay in the first-level cache.
    const auto round = [&]<int kCells>(std::integral_constant<int, kCells>, int64_t q) {
      const S* rows = d.data + q * d.pitch;
      const bool first = q == 0;
      const bool last = q + kCells == Q;
      const auto add = [&](int64_t c, const auto& read, const auto& write) {
        Vec<Acc> sum{};
        if (!first) sum = read(alpha + c);
        for (int j = 0; j < kCells; ++j) {
          prefetch_ahead(rows + j * d.pitch + c);
          sum += read(rows + j * d.pitch + c);
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

// ---- step 2: map[t, p] = sum_c alpha[t, c] A[c, p], for `kTargets` targets ----------------------

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
    const auto add = [&](int64_t p, const auto& read) FASTCAM_INLINE_LAMBDA {
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
      add(p, [](const S* x) FASTCAM_INLINE_LAMBDA { return load(x); });
    }
    for (; p < P; p += L) {
      add(p, [&](const S* x) FASTCAM_INLINE_LAMBDA { return load_partial<Acc>(x, P - p); });
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
    const S* cell = a.data + p * a.pitch;
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

// Steps 1 and 2 for up to kTargetBlock targets of one sample and the channels of `range`: their
// alpha, and what they add to the maps; target t's map is row t of `map_rows`, padded.
template <class Acc, class SA, class SD>
FASTCAM_INLINE void raw_maps(const CamInputs& in, int64_t n, const int64_t* targets, int count,
                             ChannelRange range, Acc* alpha_out, Acc* map_rows) {
  const auto a = plane_of<SA>(static_cast<const SA*>(in.activations) + n * in.activations_stride_n,
                              in.channels, in.cells, in.activations_channels_last, range);
  const Acc* alpha[kTargetBlock];
  Acc* map[kTargetBlock];
  for (int i = 0; i < count; ++i) {
    const auto d = plane_of<SD>(in.gradients.of<SD>(n, targets[i]), in.channels, in.grad_cells,
                                in.gradients_channels_last, range);
    Acc* row = alpha_out + (n * in.targets + targets[i]) * in.channels + range.begin;
    channel_weights(d, Acc(in.cells), row);
    alpha[i] = row;
    map[i] = map_rows + targets[i] * padded<Acc>(in.cells);
  }
  switch (count) {
    case 1: maps<1>(a, alpha, map); break;
    case 2: maps<2>(a, alpha, map); break;
    case 3: maps<3>(a, alpha, map); break;
    default: maps<4>(a, alpha, map); break;
  }
}

// ReLU in place, and the peak (step 3). `map` is a padded row.
template <class Acc>
FASTCAM_INLINE Peak<Acc> rectify(Acc* map, int64_t cells) {
  constexpr int L = kLanes<Acc>;
  // The first of the highest values, NaN the highest of all, lane by lane; then of the lanes.
  Vec<Acc> value = splat(Acc(-1));
  LaneInts<Acc> cell{};
  for (int64_t p = 0; p < cells; p += L) {
    Vec<Acc> here = relu(load(map + p));
    if (p + L > cells) here = keep_first<Acc>(here, cells - p);
    store(map + p, here);
    const auto higher = (here > value) | (is_nan(here) & (value == value));
    value = higher ? here : value;
    cell = higher ? lane_numbers<Acc>() + IntOf<Acc>(p) : cell;
  }
  Peak<Acc> peak{value[0], cell[0]};
  for (int i = 1; i < L; ++i) peak = higher_peak(peak, {value[i], cell[i]});
  return peak;
}

// ---- grad_cam -----------------------------------------------------------------------------------

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
      raw_maps<Acc, SA, SD>(in, n, targets, count, {0, in.channels}, static_cast<Acc*>(op.alpha),
                            maps);
      for (int i = 0; i < count; ++i) {
        Acc* map = maps + targets[i] * padded<Acc>(P);
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

}  // namespace fastcam::FASTCAM_ISA
