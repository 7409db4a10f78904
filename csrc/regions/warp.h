// Rectangles drawn on the template face, carried to any face by its landmarks.
//
// A corner of a drawn rectangle moves by the affine map that fits the landmarks best, where points
// near the rectangle weigh more (moving least squares). For a fixed template this is one fixed
// weighted sum of the 68 points per corner, found once per rectangle.
#pragma once

#include "regions/geometry.h"

#include <array>
#include <cmath>
#include <cstddef>
#include <vector>

namespace fastcam::regions {

// How far a landmark's influence on a drawn rectangle reaches, in eye-to-mouth heights.
inline constexpr double kReach = 0.25;

class LandmarkWarp {
public:
  // anchors: the template's landmarks; boxes: [count, 4] in the same coordinates.
  LandmarkWarp(const Face<double>& anchors, const double* boxes, std::size_t count) {
    weights_.reserve(count);
    for (std::size_t k = 0; k < count; ++k) {
      const double* b = boxes + 4 * k;
      weights_.push_back(corner_weights(anchors, {b[0], b[1], b[2], b[3]}));
    }
  }

  std::ptrdiff_t count() const { return static_cast<std::ptrdiff_t>(weights_.size()); }

  // The axis-aligned rectangle around the four warped corners of box k.
  template <typename T>
  Rect apply(const Face<T>& face, std::ptrdiff_t k) const {
    Rect out{INFINITY, INFINITY, -INFINITY, -INFINITY};
    for (const auto& corner : weights_[static_cast<std::size_t>(k)]) {
      Point p{0, 0};
      for (int i = 0; i < kPoints; ++i) {
        const Point q = face[i];
        p.x += corner[i] * q.x;
        p.y += corner[i] * q.y;
      }
      out = {std::min(out.x0, p.x), std::min(out.y0, p.y), std::max(out.x1, p.x),
             std::max(out.y1, p.y)};
    }
    return out;
  }

private:
  using Weights = std::array<double, kPoints>;

  static std::array<Weights, 4> corner_weights(const Face<double>& anchors, const Rect& box);

  std::vector<std::array<Weights, 4>> weights_;
};

}  // namespace fastcam::regions
