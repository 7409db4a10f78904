// A union of rectangles -> the exact share of every grid cell that it covers.
#pragma once

#include "regions/geometry.h"

#include <vector>

namespace fastcam::regions {

// A grid of rows x cols equal cells over an image that spans [0,width] x [0,height].
struct GridShape {
  double width, height;
  int rows, cols;
};

// Overlap below this share of a cell is rounding of the rectangle's sides, not overlap.
inline constexpr double kSliver = 1e-6;

// Scratch space is kept between calls, so that a batch allocates once.
class Rasteriser {
public:
  explicit Rasteriser(const GridShape& shape)
      : shape_(shape), cells_(static_cast<std::size_t>(shape.rows) * shape.cols) {}

  // Sweeps horizontal strips between all the heights where anything begins or ends. Within a strip
  // the rectangles are plain intervals, whose union is found by merging: no area is counted twice.
  void coverage(const Rect* rects, int count, float* out) {
    clip(rects, count);
    std::fill(cells_.begin(), cells_.end(), 0.0);
    for (std::size_t s = 0; s + 1 < heights_.size(); ++s) {
      const double y0 = heights_[s], y1 = heights_[s + 1];
      if (!(y0 < y1)) continue;
      const int row = std::min(static_cast<int>(y0), shape_.rows - 1);
      double* cells = cells_.data() + static_cast<std::size_t>(row) * shape_.cols;
      double from = 0, to = 0;  // the interval being merged
      for (const Rect& r : rects_) {
        if (r.y0 > y0 || r.y1 < y1) continue;
        if (r.x0 > to) {
          add(cells, from, to, y1 - y0);
          from = r.x0;
          to = r.x1;
        } else {
          to = std::max(to, r.x1);
        }
      }
      add(cells, from, to, y1 - y0);
    }
    for (std::size_t i = 0; i < cells_.size(); ++i)
      out[i] = static_cast<float>(std::min(cells_[i], 1.0));
  }

  void binary(const Rect* rects, int count, float* out) {
    coverage(rects, count, out);
    for (std::size_t i = 0; i < cells_.size(); ++i) out[i] = cells_[i] > kSliver ? 1.0f : 0.0f;
  }

private:
  // Into units of cells, cut to the image, ordered by left side; and the strips' heights.
  void clip(const Rect* rects, int count) {
    rects_.clear();
    heights_.clear();
    for (int i = 0; i < count; ++i) {
      if (rects[i].empty()) continue;
      // Multiplied before divided: a side on a cell's border stays exactly there.
      const Rect r{std::clamp(rects[i].x0 * shape_.cols / shape_.width, 0.0, double(shape_.cols)),
                   std::clamp(rects[i].y0 * shape_.rows / shape_.height, 0.0, double(shape_.rows)),
                   std::clamp(rects[i].x1 * shape_.cols / shape_.width, 0.0, double(shape_.cols)),
                   std::clamp(rects[i].y1 * shape_.rows / shape_.height, 0.0, double(shape_.rows))};
      if (r.empty()) continue;
      rects_.push_back(r);
      heights_.push_back(r.y0);
      for (double y = std::floor(r.y0) + 1; y < r.y1; ++y) heights_.push_back(y);
      heights_.push_back(r.y1);
    }
    std::sort(rects_.begin(), rects_.end(),
              [](const Rect& a, const Rect& b) { return a.x0 < b.x0; });
    std::sort(heights_.begin(), heights_.end());
  }

  // Adds a strip's interval [from,to] of the given height to the cells of its row.
  void add(double* cells, double from, double to, double height) const {
    const int end = std::min(static_cast<int>(std::ceil(to)), shape_.cols);
    for (int c = static_cast<int>(from); c < end; ++c)
      cells[c] += height * (std::min(to, c + 1.0) - std::max(from, double(c)));
  }

  GridShape shape_;
  std::vector<double> cells_;    // [rows, cols]
  std::vector<Rect> rects_;      // clipped, in cells
  std::vector<double> heights_;  // sorted, in cells, repeats allowed
};

}  // namespace fastcam::regions
