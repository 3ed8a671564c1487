// Python's view of pictures and text maps: numpy arrays in, checked here once; the work runs without the GIL.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <cmath>
#include <stdexcept>

#include "bindings.h"
#include "image.h"

namespace nb = nanobind;
using namespace trimtab;

namespace {

using Bytes = nb::ndarray<const uint8_t, nb::shape<-1, -1, 3>, nb::c_contig, nb::device::cpu>;
using BytesOut = nb::ndarray<uint8_t, nb::shape<-1, -1, 3>, nb::c_contig, nb::device::cpu>;
using Planes = nb::ndarray<float, nb::shape<3, -1, -1>, nb::c_contig, nb::device::cpu>;
using Map = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Three = std::array<float, 3>;

Picture picture(const Bytes& pixels) {
  Picture found{pixels.data(), int64_t(pixels.shape(0)), int64_t(pixels.shape(1))};
  if (found.height < 1 || found.width < 1) throw std::invalid_argument("a picture without pixels");
  return found;
}

template <class T>
nb::object array_of(std::vector<T>&& values, std::initializer_list<size_t> shape) {
  auto* kept = new std::vector<T>(std::move(values));
  nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return nb::cast(nb::ndarray<nb::numpy, T>(kept->data(), shape, owner));
}

}  // namespace

void bind_image(nb::module_& m) {
  m.def("image_planes", [](const Bytes& pixels, Planes out, int64_t width, Three scale, Three shift, bool swap) {
    const Picture from = picture(pixels);
    const int64_t height = int64_t(out.shape(1)), stride = int64_t(out.shape(2));
    if (height < 1 || width < 1 || width > stride) throw std::invalid_argument("the planes are too small for that width");
    const Tone tone{{scale[0], scale[1], scale[2]}, {shift[0], shift[1], shift[2]}, swap};
    nb::gil_scoped_release unlocked;
    resize_planes(from, tone, out.data(), height, width, stride);
  }, nb::arg("pixels"), nb::arg("out"), nb::arg("width"), nb::arg("scale"), nb::arg("shift"), nb::arg("swap"),
     "Resize pixels (h, w, 3) to `width` columns of planes (3, H, W), normalised; the columns beyond are zeroed.");
  m.def("image_warp", [](const Bytes& pixels, std::array<float, 8> corners, float across, float down, BytesOut out) {
    const Picture from = picture(pixels);
    for (float each : corners)
      if (!std::isfinite(each)) throw std::invalid_argument("a corner is no number");
    if (!(across > 0) || !(down > 0)) throw std::invalid_argument("a quadrilateral without a size");
    nb::gil_scoped_release unlocked;
    warp(from, corners.data(), across, down, out.data(), int64_t(out.shape(0)), int64_t(out.shape(1)));
  }, nb::arg("pixels"), nb::arg("corners"), nb::arg("across"), nb::arg("down"), nb::arg("out"),
     "Straighten a quadrilateral of a picture into out (h, w, 3).");
  m.def("text_boxes", [](const Map& map, float threshold, float box_threshold, float unclip, bool dilate, int most) {
    std::vector<float> corners, scores;
    {
      nb::gil_scoped_release unlocked;
      for (const Box& box : text_boxes(map.data(), int64_t(map.shape(0)), int64_t(map.shape(1)),
                                       {threshold, box_threshold, unclip, dilate, most})) {
        corners.insert(corners.end(), box.corners, box.corners + 8);
        scores.push_back(box.score);
      }
    }
    const size_t count = scores.size();
    return nb::make_tuple(array_of(std::move(corners), {count, 4, 2}), array_of(std::move(scores), {count}));
  }, nb::arg("map"), nb::arg("threshold"), nb::arg("box_threshold"), nb::arg("unclip"), nb::arg("dilate"), nb::arg("most"),
     "Boxes (n, 4, 2) of a map of text probabilities (h, w), in its pixels, and the mean probability in each.");
}
