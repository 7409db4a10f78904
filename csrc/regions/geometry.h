// Plain types shared by the region code; no Python, no torch.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

namespace fastcam::regions {

inline constexpr int kPoints = 68;  // dlib's landmarks of one face
inline constexpr int kRegions = 10;

struct Point {
  double x, y;
};

// Axis-aligned, in the coordinates of the image it belongs to. It covers something only if
// x0 < x1 and y0 < y1; NaN in any side makes it empty.
struct Rect {
  double x0, y0, x1, y1;

  bool empty() const { return !(x0 < x1 && y0 < y1); }

  Rect grown(double dx, double dy) const { return {x0 - dx, y0 - dy, x1 + dx, y1 + dy}; }

  static Rect nothing() {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    return {nan, nan, nan, nan};
  }
};

// One face's points as they lie in memory: x0, y0, x1, y1, ...
template <typename T>
struct Face {
  const T* xy;  // [68, 2]

  Point operator[](int i) const {
    return {static_cast<double>(xy[2 * i]), static_cast<double>(xy[2 * i + 1])};
  }

  bool finite() const {
    return std::all_of(xy, xy + 2 * kPoints, [](T v) { return std::isfinite(v); });
  }

  // Mean of the points first..last, both included.
  Point mean(int first, int last) const {
    Point sum{0, 0};
    for (int i = first; i <= last; ++i) {
      sum.x += (*this)[i].x;
      sum.y += (*this)[i].y;
    }
    const double n = last - first + 1;
    return {sum.x / n, sum.y / n};
  }

  // Smallest rectangle around the points first..last, both included.
  Rect box(int first, int last) const {
    Rect r{(*this)[first].x, (*this)[first].y, (*this)[first].x, (*this)[first].y};
    for (int i = first + 1; i <= last; ++i) {
      const Point p = (*this)[i];
      r = {std::min(r.x0, p.x), std::min(r.y0, p.y), std::max(r.x1, p.x), std::max(r.y1, p.y)};
    }
    return r;
  }
};

}  // namespace fastcam::regions
