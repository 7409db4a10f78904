// The loss of a normalised map with plain loops in double, for the programs under sanitizers.
#pragma once

#include <vector>

#include "common/losses.h"

namespace emulator {

inline constexpr fastcam::LossParams kSanitizedParams{{0.5, 2.0, 1e-6}, 0, 0};

// With kSanitizedParams, to which a call adds its H and W; every cell weighs 1.
inline double loss_of(fastcam::LossKind kind, const std::vector<double>& map, double peak,
                      const float* region) {
  double result = 0;
  fastcam::visit_loss<double>(kind, kSanitizedParams, [&](const auto& loss) {
    constexpr int kSums = std::decay_t<decltype(loss)>::kSums;
    double sum[kSums] = {}, derivative[kSums];
    for (size_t p = 0; p < map.size(); ++p) {
      double term[kSums];
      loss.terms({map[p] / (peak == 0 ? 1 : peak), region[p], 1.0, 0, 0}, term);
      for (int j = 0; j < kSums; ++j) sum[j] += term[j];
    }
    result = loss.combine(sum, derivative);
  });
  return result;
}

}  // namespace emulator
