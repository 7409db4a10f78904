// What becomes of the pairs (n, t) once each has its loss: status, reduction, and the scale of its
// gradients. For the CPU kernels, the CUDA kernels and the C++ tests.
#pragma once

#include "common/params.h"
#include "common/scalar.h"

namespace fastcam {

// Of a valid pair, from the peak of its map.
template <class T>
FASTCAM_HD uint8_t valid_status(T peak) {
  return uint8_t(kStatusValid | (peak == T(0) ? kStatusDead : 0));
}

// The sum of the losses (that of an invalid pair is 0), and how many pairs are valid.
template <class T>
struct PairSum {
  T loss;
  T count;

  FASTCAM_HD void add(T loss_of_pair, uint8_t status) {
    loss += loss_of_pair;
    count += T(status & kStatusValid);
  }
  FASTCAM_HD PairSum operator+(const PairSum& other) const {
    return {loss + other.loss, count + other.count};
  }
  // The mean of no pair is 0.
  FASTCAM_HD T reduced(Reduction reduction) const {
    return reduction == Reduction::kMean && count > T(0) ? loss / count : loss;
  }
};

// What a pair's gradients are multiplied by: its upstream gradient, divided by the `count` of valid
// pairs where the loss is their mean (1 elsewhere); 0 for an invalid pair, whatever the upstream
// gradient.
template <class T>
FASTCAM_HD T pair_scale(uint8_t status, T grad, T count) {
  if ((status & kStatusValid) == 0) return T(0);
  return count > T(1) ? grad / count : grad;
}

}  // namespace fastcam
