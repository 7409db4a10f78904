#include "regions/warp.h"

#include <cmath>

namespace fastcam::regions {
namespace {

double square(double v) { return v * v; }

// Squared distance of a point to a rectangle, 0 inside.
double distance2(const Point& p, const Rect& r) {
  return square(std::max({r.x0 - p.x, 0.0, p.x - r.x1})) +
         square(std::max({r.y0 - p.y, 0.0, p.y - r.y1}));
}

}  // namespace

std::array<LandmarkWarp::Weights, 4> LandmarkWarp::corner_weights(const Face<double>& anchors,
                                                                  const Rect& box) {
  // The reach keeps far points in play, so that the fit stays well conditioned wherever the box
  // lies.
  const double reach2 = square(kReach * (anchors.mean(48, 59).y - anchors.mean(36, 47).y));
  Weights near;
  double total = 0;
  Point centre{0, 0};
  for (int i = 0; i < kPoints; ++i) {
    near[i] = 1 / (distance2(anchors[i], box) + reach2);
    total += near[i];
    centre.x += near[i] * anchors[i].x;
    centre.y += near[i] * anchors[i].y;
  }
  centre = {centre.x / total, centre.y / total};

  // Normal matrix of the weighted fit, centred: 2 x 2 and positive definite, as no template has its
  // points on one line.
  double xx = 0, xy = 0, yy = 0;
  for (int i = 0; i < kPoints; ++i) {
    const double dx = anchors[i].x - centre.x, dy = anchors[i].y - centre.y;
    xx += near[i] * dx * dx;
    xy += near[i] * dx * dy;
    yy += near[i] * dy * dy;
  }
  const double det = xx * yy - xy * xy;

  const Point corners[4] = {{box.x0, box.y0}, {box.x1, box.y0}, {box.x0, box.y1}, {box.x1, box.y1}};
  std::array<Weights, 4> out;
  for (int k = 0; k < 4; ++k) {
    const double cx = corners[k].x - centre.x, cy = corners[k].y - centre.y;
    const double ax = (yy * cx - xy * cy) / det, ay = (xx * cy - xy * cx) / det;
    for (int i = 0; i < kPoints; ++i)
      out[k][i] =
          near[i] * (1 / total + ax * (anchors[i].x - centre.x) + ay * (anchors[i].y - centre.y));
  }
  return out;
}

}  // namespace fastcam::regions
