// fastcam._regions: landmarks -> rectangles -> grids on numpy arrays, without torch.
// Arguments are checked and outputs allocated under the GIL; the loops over a batch run without it.
#include "regions/arrays.h"
#include "regions/grid.h"
#include "regions/rectangles.h"
#include "regions/warp.h"

namespace {

using namespace fastcam::regions;

template <typename T>
T* store(const Rect& r, T* out) {
  out[0] = static_cast<T>(r.x0);
  out[1] = static_cast<T>(r.y0);
  out[2] = static_cast<T>(r.x1);
  out[3] = static_cast<T>(r.y1);
  return out + 4;
}

template <typename T>
py::array rectangles_of(const py::array& landmarks) {
  const py::ssize_t n = landmarks.shape(0);
  py::array_t<T> out({n, py::ssize_t{kRegions}, py::ssize_t{4}});
  const T* points = static_cast<const T*>(landmarks.data());  // [n, 68, 2]
  T* rects = out.mutable_data();                              // [n, 10, 4]
  {
    py::gil_scoped_release release;
    for (py::ssize_t i = 0; i < n; ++i)
      for (const Rect& r : face_rectangles(Face<T>{points + i * kPoints * 2}))
        rects = store(r, rects);
  }
  return out;
}

py::array rectangles(const py::object& landmarks) {
  const py::array points = real_array(landmarks, "landmarks", "[N, 68, 2]", {-1, kPoints, 2});
  return is_float64(points) ? rectangles_of<double>(points) : rectangles_of<float>(points);
}

template <typename T>
py::array warped(const py::array& landmarks, const LandmarkWarp& warp) {
  const py::ssize_t n = landmarks.shape(0), count = warp.count();
  py::array_t<T> out({n, count, py::ssize_t{4}});
  const T* points = static_cast<const T*>(landmarks.data());  // [n, 68, 2]
  T* rects = out.mutable_data();                              // [n, count, 4]
  {
    py::gil_scoped_release release;
    for (py::ssize_t i = 0; i < n; ++i) {
      const Face<T> face{points + i * kPoints * 2};
      const bool finite = face.finite();
      for (py::ssize_t k = 0; k < count; ++k)
        rects = store(finite ? warp.apply(face, k) : Rect::nothing(), rects);
    }
  }
  return out;
}

py::array carry(const py::object& landmarks, const py::object& template_landmarks,
                const py::object& boxes) {
  const py::array points = real_array(landmarks, "landmarks", "[N, 68, 2]", {-1, kPoints, 2});
  const auto anchors = py::array_t<double, py::array::c_style | py::array::forcecast>(
      real_array(template_landmarks, "template_landmarks", "[68, 2]", {kPoints, 2}));
  const auto drawn = py::array_t<double, py::array::c_style | py::array::forcecast>(
      real_array(boxes, "boxes", "[R, 4]", {-1, 4}));
  const LandmarkWarp warp(Face<double>{anchors.data()}, drawn.data(),
                          static_cast<std::size_t>(drawn.shape(0)));
  return is_float64(points) ? warped<double>(points, warp) : warped<float>(points, warp);
}

template <typename T>
void fill_grids(const T* rects, py::ssize_t n, py::ssize_t count, const GridShape& shape,
                bool binary, float* out) {
  Rasteriser raster(shape);
  std::vector<Rect> faces(static_cast<std::size_t>(count));
  const py::ssize_t cells = py::ssize_t{shape.rows} * shape.cols;
  for (py::ssize_t i = 0; i < n; ++i, out += cells) {
    for (Rect& r : faces) {
      r = {double(rects[0]), double(rects[1]), double(rects[2]), double(rects[3])};
      rects += 4;
    }
    if (binary)
      raster.binary(faces.data(), static_cast<int>(count), out);
    else
      raster.coverage(faces.data(), static_cast<int>(count), out);
  }
}

py::array_t<float> grid(const py::object& rects, double height, double width, int rows, int cols,
                        bool binary) {
  const py::array boxes = real_array(rects, "rects", "[N, R, 4]", {-1, -1, 4});
  require_positive(height, "image_size[0] (height)");
  require_positive(width, "image_size[1] (width)");
  require_positive(rows, "grid_size[0] (rows)");
  require_positive(cols, "grid_size[1] (columns)");
  const py::ssize_t n = boxes.shape(0), count = boxes.shape(1);
  py::array_t<float> out({n, py::ssize_t{rows}, py::ssize_t{cols}});
  const GridShape shape{width, height, rows, cols};
  const void* data = boxes.data();
  float* cells = out.mutable_data();
  const bool wide = is_float64(boxes);
  {
    py::gil_scoped_release release;
    if (wide)
      fill_grids(static_cast<const double*>(data), n, count, shape, binary, cells);
    else
      fill_grids(static_cast<const float*>(data), n, count, shape, binary, cells);
  }
  return out;
}

}  // namespace

PYBIND11_MODULE(_regions, m, py::mod_gil_not_used()) {
  m.doc() = "Landmarks, rectangles and grids on numpy arrays; the GIL is released while it works.";
  m.def("rectangles", &rectangles, py::arg("landmarks"),
        "Ten face rectangles [N, 10, 4] (x0, y0, x1, y1) from landmarks [N, 68, 2].");
  m.def("carry", &carry, py::arg("landmarks"), py::arg("template_landmarks"), py::arg("boxes"),
        "Rectangles drawn on the template face, boxes [R, 4], carried to each face: [N, R, 4].");
  m.def("grid", &grid, py::arg("rects"), py::arg("height"), py::arg("width"), py::arg("rows"),
        py::arg("cols"), py::arg("binary") = false,
        "Share of each cell that the union of an image's rectangles [N, R, 4] covers: "
        "float32 [N, rows, cols].");
}
