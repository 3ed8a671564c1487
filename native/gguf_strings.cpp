// Arrays of strings in GGUF metadata: a vocabulary is some hundred thousand of them, too many for a Python
// loop at start-up. This file knows only their framing: a 64-bit length, then UTF-8 bytes without a zero.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <cstring>

#include "bindings.h"

namespace nb = nanobind;

namespace {

constexpr uint64_t kLongest = 1 << 20;  // bytes of one string; vocabularies stay below a thousandth

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// (strings, position after the last one, problem): the problem is empty, or says what is wrong at the position.
nb::tuple read_strings(const Bytes& data, uint64_t position, uint64_t count) {
  const uint64_t size = data.size();
  if (position > size || count > (size - position) / 8) {
    return nb::make_tuple(nb::list(), position, "more strings are announced than the file can hold");
  }
  nb::object list = nb::steal(PyList_New(Py_ssize_t(count)));
  if (!list.is_valid()) throw nb::python_error();
  for (uint64_t i = 0; i < count; ++i) {
    uint64_t length = 0;
    if (size - position < 8) return nb::make_tuple(nb::list(), position, "the file ends inside a string array");
    std::memcpy(&length, data.data() + position, 8);
    if (length > size - position - 8) {
      return nb::make_tuple(nb::list(), position, "a string is longer than the rest of the file");
    }
    if (length > kLongest) {
      return nb::make_tuple(nb::list(), position, "a string of an array is longer than 1 MiB");
    }
    PyObject* text = PyUnicode_DecodeUTF8(reinterpret_cast<const char*>(data.data() + position + 8),
                                          Py_ssize_t(length), nullptr);
    if (text == nullptr) {
      if (!PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) throw nb::python_error();
      PyErr_Clear();
      return nb::make_tuple(nb::list(), position, "a string is not UTF-8");
    }
    PyList_SET_ITEM(list.ptr(), Py_ssize_t(i), text);
    position += 8 + length;
  }
  return nb::make_tuple(list, position, "");
}

}  // namespace

void bind_gguf_strings(nb::module_& m) {
  m.def("read_strings", &read_strings, nb::arg("data"), nb::arg("position"), nb::arg("count"),
        "(strings, next position, problem or ''); every length is checked against the data.");
}
