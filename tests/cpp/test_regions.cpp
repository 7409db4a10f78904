// The region code without Python: rectangles to grids, landmarks to rectangles, carried rectangles.
#include <array>
#include <numeric>
#include <vector>

#include "check.h"
#include "regions/grid.h"
#include "regions/rectangles.h"
#include "regions/warp.h"

using namespace fastcam::regions;

namespace {

std::vector<float> coverage(const GridShape& shape, const std::vector<Rect>& rects) {
  std::vector<float> out(size_t(shape.rows) * size_t(shape.cols), -1.0f);
  Rasteriser(shape).coverage(rects.data(), int(rects.size()), out.data());
  return out;
}

double sum(const std::vector<float>& grid) {
  return std::accumulate(grid.begin(), grid.end(), 0.0);
}

// Overlap of one rectangle and one cell; slow and obvious.
double overlap(const Rect& r, double x0, double y0, double x1, double y1) {
  const double w = std::min(r.x1, x1) - std::max(r.x0, x0);
  const double h = std::min(r.y1, y1) - std::max(r.y0, y0);
  return w > 0 && h > 0 ? w * h / ((x1 - x0) * (y1 - y0)) : 0;
}

Rect cut(const Rect& a, const Rect& b) {
  return {std::max(a.x0, b.x0), std::max(a.y0, b.y0), std::min(a.x1, b.x1), std::min(a.y1, b.y1)};
}

TEST(whole_cells_and_shares) {
  const GridShape shape{8, 4, 2, 4};  // cells of 2 x 2
  const std::vector<float> grid = coverage(shape, {{2, 0, 5, 3}});
  const std::vector<float> want{0, 1, 0.5f, 0, 0, 0.5f, 0.25f, 0};
  for (size_t i = 0; i < want.size(); ++i) CHECK_NEAR(grid[i], want[i], 0, 1e-7);
}

TEST(unions_count_no_area_twice) {
  check::Random random(4);
  for (int trial = 0; trial < 200; ++trial) {
    const GridShape shape{178, 218, 1 + int(random.uniform() * 13), 1 + int(random.uniform() * 13)};
    const auto draw = [&] {
      const double x = random.uniform(-30, 178), y = random.uniform(-30, 218);
      return Rect{x, y, x + random.uniform(0, 150), y + random.uniform(0, 150)};
    };
    const Rect a = draw(), b = draw();
    const std::vector<float> grid = coverage(shape, {a, b, a});
    for (int r = 0; r < shape.rows; ++r) {
      for (int c = 0; c < shape.cols; ++c) {
        const double w = shape.width / shape.cols, h = shape.height / shape.rows;
        const double x = c * w, y = r * h;
        // Inclusion and exclusion.
        const double want = overlap(a, x, y, x + w, y + h) + overlap(b, x, y, x + w, y + h) -
                            overlap(cut(a, b), x, y, x + w, y + h);
        CHECK_NEAR(grid[size_t(r * shape.cols + c)], want, 0, 1e-5);
      }
    }
  }
}

TEST(nothing_outside_nothing_empty) {
  const GridShape shape{10, 10, 5, 5};
  const double nan = std::numeric_limits<double>::quiet_NaN(), inf = INFINITY;
  CHECK_NEAR(sum(coverage(shape, {})), 0, 0, 0);
  CHECK_NEAR(sum(coverage(shape, {{-9, -9, -1, -1}, {11, 0, 20, 10}, {3, 3, 3, 9}})), 0, 0, 0);
  CHECK_NEAR(sum(coverage(shape, {{nan, 0, 5, 5}, {0, 0, 5, nan}, Rect::nothing()})), 0, 0, 0);
  CHECK_NEAR(sum(coverage(shape, {{8, 8, 2, 2}})), 0, 0, 0);
  CHECK_NEAR(sum(coverage(shape, {{-inf, -inf, inf, inf}})), 25, 0, 0);
}

TEST(binary_is_any_overlap_but_not_a_touching_side) {
  const GridShape shape{4, 4, 4, 4};
  std::vector<float> grid(16, -1.0f);
  const Rect rect{1, 1, 2.01, 2};
  Rasteriser(shape).binary(&rect, 1, grid.data());
  for (int i = 0; i < 16; ++i) CHECK_NEAR(grid[size_t(i)], i == 5 || i == 6 ? 1 : 0, 0, 0);
}

// A face of 68 points on which every region has an area: features where a face has them, mirror
// symmetric about x = 0.5 (point i has the partner that dlib's order gives it only for the sums
// used).
std::array<double, 2 * kPoints> symmetric_face() {
  std::array<double, 2 * kPoints> xy{};
  const auto put = [&](int i, double x, double y) {
    xy[size_t(2 * i)] = x;
    xy[size_t(2 * i + 1)] = y;
  };
  for (int i = 0; i < 17; ++i) {  // jaw, from the viewer's left to the right
    const double angle = 3.14159265358979 * i / 16;
    put(i, 0.5 - 0.4 * std::cos(angle), 0.45 + 0.45 * std::sin(angle));
  }
  for (int i = 0; i < 5; ++i) {
    put(17 + i, 0.18 + 0.06 * i, 0.33);
    put(26 - i, 0.82 - 0.06 * i, 0.33);
  }
  for (int i = 0; i < 4; ++i) put(27 + i, 0.5, 0.40 + 0.05 * i);
  for (int i = 0; i < 5; ++i) put(31 + i, 0.44 + 0.03 * i, 0.60);
  const double eye[6][2] = {{-.06, 0}, {-.02, -.02}, {.02, -.02},
                            {.06, 0},  {.02, .02},   {-.02, .02}};
  for (int i = 0; i < 6; ++i) {
    put(36 + i, 0.32 + eye[i][0], 0.42 + eye[i][1]);
    put(42 + i, 0.68 + eye[i][0], 0.42 + eye[i][1]);
  }
  for (int i = 0; i < 20; ++i) {  // lips
    const double angle = 2 * 3.14159265358979 * i / 12;
    const double size = i < 12 ? 1 : 0.6;
    put(48 + i, 0.5 - 0.12 * size * std::cos(angle), 0.73 - 0.04 * size * std::sin(angle));
  }
  return xy;
}

TEST(rectangles_lie_where_a_face_has_them) {
  const auto xy = symmetric_face();
  const auto r = face_rectangles(Face<double>{xy.data()});
  for (const Rect& rect : r) CHECK(!rect.empty());
  CHECK(r[kForehead].y1 < r[kLeftEye].y0);
  const auto middle = [&](int i) { return (r[size_t(i)].x0 + r[size_t(i)].x1) / 2; };
  CHECK(middle(kLeftEye) < r[kNose].x0 && r[kNose].x1 < middle(kRightEye));
  for (int i : {kForehead, kNose, kMouth, kChin}) CHECK_NEAR(middle(i), 0.5, 0, 1e-12);
  CHECK(r[kLeftEye].y1 <= r[kLeftCheek].y0 && r[kLeftCheek].y1 <= r[kMouth].y0 + 1e-12);
  CHECK(r[kMouth].y1 <= r[kChin].y0);
  // Left and right are each other's mirror images.
  const int pairs[][2] = {
      {kLeftEyebrow, kRightEyebrow}, {kLeftEye, kRightEye}, {kLeftCheek, kRightCheek}};
  for (const auto& pair : pairs) {
    const Rect left = r[size_t(pair[0])], right = r[size_t(pair[1])];
    CHECK_NEAR(left.x0, 1 - right.x1, 0, 1e-12);
    CHECK_NEAR(left.x1, 1 - right.x0, 0, 1e-12);
    CHECK_NEAR(left.y0, right.y0, 0, 1e-12);
    CHECK_NEAR(left.y1, right.y1, 0, 1e-12);
  }
}

TEST(rectangles_follow_any_resize_and_shift) {
  auto xy = symmetric_face();
  const auto before = face_rectangles(Face<double>{xy.data()});
  for (int i = 0; i < kPoints; ++i) {
    xy[size_t(2 * i)] = 178 * xy[size_t(2 * i)] + 3;
    xy[size_t(2 * i + 1)] = 218 * xy[size_t(2 * i + 1)] - 5;
  }
  const auto after = face_rectangles(Face<double>{xy.data()});
  for (int i = 0; i < kRegions; ++i) {
    const Rect &b = before[size_t(i)], &a = after[size_t(i)];
    CHECK_NEAR(a.x0, 178 * b.x0 + 3, 1e-9, 0);
    CHECK_NEAR(a.x1, 178 * b.x1 + 3, 1e-9, 0);
    CHECK_NEAR(a.y0, 218 * b.y0 - 5, 1e-9, 0);
    CHECK_NEAR(a.y1, 218 * b.y1 - 5, 1e-9, 0);
  }
}

TEST(landmarks_that_are_not_numbers_give_empty_rectangles) {
  auto xy = symmetric_face();
  xy[71] = std::numeric_limits<double>::quiet_NaN();
  for (const Rect& rect : face_rectangles(Face<double>{xy.data()})) CHECK(rect.empty());
}

TEST(carried_rectangles_follow_affine_maps_exactly) {
  const auto xy = symmetric_face();
  const Face<double> face{xy.data()};
  const double boxes[2][4] = {{0.3, 0.6, 0.7, 0.8}, {0.0, 0.0, 0.2, 0.1}};
  const LandmarkWarp warp(face, boxes[0], 2);
  CHECK(warp.count() == 2);
  std::array<float, 2 * kPoints> moved;
  for (int i = 0; i < kPoints; ++i) {
    moved[size_t(2 * i)] = float(100 * xy[size_t(2 * i)] + 20);
    moved[size_t(2 * i + 1)] = float(150 * xy[size_t(2 * i + 1)] - 10);
  }
  for (int k = 0; k < 2; ++k) {
    const double* box = boxes[k];
    const Rect same = warp.apply(face, k);
    CHECK_NEAR(same.x0, box[0], 1e-9, 1e-9);
    CHECK_NEAR(same.y1, box[3], 1e-9, 1e-9);
    const Rect there = warp.apply(Face<float>{moved.data()}, k);
    CHECK_NEAR(there.x0, 100 * box[0] + 20, 1e-4, 1e-4);
    CHECK_NEAR(there.y0, 150 * box[1] - 10, 1e-4, 1e-4);
    CHECK_NEAR(there.x1, 100 * box[2] + 20, 1e-4, 1e-4);
    CHECK_NEAR(there.y1, 150 * box[3] - 10, 1e-4, 1e-4);
  }
}

}  // namespace

int main() { return check::run(); }
