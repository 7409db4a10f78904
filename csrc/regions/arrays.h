// numpy arguments of the module: what is accepted, and the messages for what is not.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cmath>
#include <string>
#include <vector>

namespace fastcam::regions {

namespace py = pybind11;

inline std::string shape_text(const std::vector<py::ssize_t>& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

// `value` as a C-contiguous float32 or float64 array of the given shape, where -1 stands for any
// length. Other real dtypes and layouts are converted (float64 stays float64, the rest becomes
// float32, integers float64); complex, text and objects are refused.
inline py::array real_array(const py::object& value, const char* name, const char* layout,
                            const std::vector<py::ssize_t>& shape) {
  py::array array = py::array::ensure(value);
  if (!array) {
    PyErr_Clear();
    throw py::type_error(std::string(name) + ": expected an array of numbers " + layout + ", got " +
                         std::string(py::str(py::type::of(value).attr("__name__"))));
  }
  const char kind = array.dtype().kind();
  if (kind != 'f' && kind != 'i' && kind != 'u')
    throw py::type_error(std::string(name) + ": expected real numbers (float32 or float64), got " +
                         std::string(py::str(array.dtype())));
  const std::vector<py::ssize_t> got(array.shape(), array.shape() + array.ndim());
  bool fits = got.size() == shape.size();
  for (std::size_t i = 0; fits && i < shape.size(); ++i) fits = shape[i] < 0 || shape[i] == got[i];
  if (!fits)
    throw py::value_error(std::string(name) + ": expected shape " + layout + ", got " +
                          shape_text(got));
  const bool wide = kind != 'f' || array.itemsize() > 4;
  return wide ? py::array(py::array_t<double, py::array::c_style | py::array::forcecast>(array))
              : py::array(py::array_t<float, py::array::c_style | py::array::forcecast>(array));
}

inline bool is_float64(const py::array& array) { return array.itemsize() == 8; }

inline void require_positive(double value, const char* name) {
  if (!(value > 0) || !std::isfinite(value))
    throw py::value_error(std::string(name) + ": expected above 0 and finite, got " +
                          std::string(py::str(py::float_(value))));
}

}  // namespace fastcam::regions
