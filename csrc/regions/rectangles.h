// 68 landmarks -> the ten named rectangles of a face.
//
// Margins are shares of two lengths taken from the face itself: ux, the horizontal distance of the
// eye centres, and uy, the vertical distance from the eyes to the mouth. Both scale with their own
// axis, so the rectangles move exactly with any resize of the image (a square resize of a portrait
// image included), and shrink with foreshortening when the head turns.
#pragma once

#include "regions/geometry.h"

#include <array>
#include <cmath>

namespace fastcam::regions {

// In the order of fastcam.regions.REGION_NAMES; left is the viewer's left.
enum Name {
  kForehead,
  kLeftEyebrow,
  kRightEyebrow,
  kLeftEye,
  kRightEye,
  kNose,
  kLeftCheek,
  kRightCheek,
  kMouth,
  kChin
};

template <typename T>
std::array<Rect, kRegions> face_rectangles(const Face<T>& face) {
  std::array<Rect, kRegions> out;
  if (!face.finite()) {
    out.fill(Rect::nothing());
    return out;
  }
  const Point left_eye = face.mean(36, 41), right_eye = face.mean(42, 47);
  const Point mouth = face.mean(48, 59);
  // From the mouth up to the middle of the eyes: the face's own "up", which tilts with the head.
  const Point up{(left_eye.x + right_eye.x) / 2 - mouth.x,
                 (left_eye.y + right_eye.y) / 2 - mouth.y};
  const double ux = std::abs(right_eye.x - left_eye.x);
  const double uy = std::abs(up.y);

  out[kLeftEyebrow] = face.box(17, 21).grown(0.08 * ux, 0.10 * uy);
  out[kRightEyebrow] = face.box(22, 26).grown(0.08 * ux, 0.10 * uy);
  out[kLeftEye] = face.box(36, 41).grown(0.12 * ux, 0.12 * uy);
  out[kRightEye] = face.box(42, 47).grown(0.12 * ux, 0.12 * uy);
  out[kMouth] = face.box(48, 59).grown(0.12 * ux, 0.10 * uy);

  // Brows without their outer ends, pushed up by 0.2 (just off the brows) to 0.8 of `up`.
  const Rect brows = face.box(18, 25);
  const Rect low{brows.x0 + 0.2 * up.x, brows.y0 + 0.2 * up.y, brows.x1 + 0.2 * up.x,
                 brows.y1 + 0.2 * up.y};
  const Rect high{brows.x0 + 0.8 * up.x, brows.y0 + 0.8 * up.y, brows.x1 + 0.8 * up.x,
                  brows.y1 + 0.8 * up.y};
  out[kForehead] = {std::min(low.x0, high.x0), std::min(low.y0, high.y0), std::max(low.x1, high.x1),
                    std::max(low.y1, high.y1)};

  // From the top of the bridge (27) to just below the wings; tip and bridge are included, as they
  // stand out beyond the wings when the head turns.
  Rect nose = face.box(27, 35).grown(0.10 * ux, 0.05 * uy);
  nose.y0 += 0.05 * uy;
  out[kNose] = nose;

  // Between jaw line and nose, below the eye and above the mouth. The cheek a turned head hides has
  // no width left: its rectangle is closed to a line and covers nothing.
  const double left_jaw = (face[2].x + face[3].x) / 2, right_jaw = (face[13].x + face[14].x) / 2;
  const double lid_left = out[kLeftEye].y1, lid_right = out[kRightEye].y1, lip = out[kMouth].y0;
  out[kLeftCheek] = {left_jaw, lid_left, std::max(left_jaw, nose.x0), std::max(lid_left, lip)};
  out[kRightCheek] = {std::min(right_jaw, nose.x1), lid_right, right_jaw, std::max(lid_right, lip)};

  const Rect jaw = face.box(6, 10);
  const double mouth_end = out[kMouth].y1;
  out[kChin] = {jaw.x0, mouth_end, jaw.x1, std::max(mouth_end, jaw.y1 + 0.05 * uy)};
  return out;
}

}  // namespace fastcam::regions
