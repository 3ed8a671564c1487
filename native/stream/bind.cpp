// Python's view of STREAM.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "bindings.h"
#include "stream/stream.h"

namespace nb = nanobind;
using namespace trimtab;

namespace {

template <class E>
E by_name(const std::string& name, const std::vector<const char*>& names, const char* what) {
  std::string known;
  for (size_t i = 0; i < names.size(); ++i) {
    if (name == names[i]) return static_cast<E>(i);
    known += (i ? ", " : "") + std::string(names[i]);
  }
  throw std::invalid_argument("no " + std::string(what) + " `" + name + "`; known: " + known);
}

std::vector<Pattern> patterns_of(const std::vector<std::string>& names) {
  std::vector<Pattern> patterns;
  for (const std::string& name : names)
    patterns.push_back(by_name<Pattern>(name, {"copy", "scale", "add", "triad", "sum", "fill"}, "pattern"));
  return patterns;
}

}  // namespace

void bind_stream(nb::module_& m) {
  nb::class_<StreamPlace>(m, "StreamPlace")
      .def("__init__", [](StreamPlace* self, const std::string& executor, int threads, bool pin,
                          const std::vector<std::vector<int>>& fake_targets) {
        std::vector<exec::Target> targets;
        for (const auto& cpus : fake_targets) targets.push_back({-1, cpus});
        new (self) StreamPlace(executor, threads, pin, std::move(targets));
      }, nb::arg("executor"), nb::arg("threads"), nb::arg("pin") = true,
         nb::arg("fake_targets") = std::vector<std::vector<int>>())
      .def_prop_ro("threads", &StreamPlace::threads)
      .def_prop_ro("targets", &StreamPlace::targets)
      .def_prop_ro("pinned", &StreamPlace::pinned, "Threads beside the caller that are tied to their processor.")
      .def("region_seconds", &region_seconds, nb::arg("regions"), nb::arg("batches"), nb::call_guard<nb::gil_scoped_release>(),
           "Seconds of each batch of empty parallel regions.")
      .def("ownership", [](StreamPlace& place, int64_t bytes) {
        const Ownership found = ownership(place, bytes);
        return std::pair(found.touched, found.used);
      }, nb::arg("bytes"), "For each page: the target that touches it first, and the target that uses it.");

  nb::class_<Stream>(m, "Stream")
      .def("__init__", [](Stream* self, StreamPlace& place, const Kernels& kernels, const std::string& dtype, int64_t n,
                          const std::vector<std::string>& patterns, bool huge) {
        const Number number = by_name<Number>(dtype, {"f64", "f32", "bf16"}, "type");
        new (self) Stream(place, kernels, number, n, patterns_of(patterns), huge);
      }, nb::keep_alive<1, 2>(), nb::arg("place"), nb::arg("kernels"), nb::arg("dtype"), nb::arg("n"), nb::arg("patterns"),
         nb::arg("huge") = true)
      .def("trial", [](Stream& stream, int rounds, int64_t repeats, bool streaming) {
        nb::gil_scoped_release release;
        return stream.trial(rounds, repeats, streaming).seconds;
      }, nb::arg("rounds"), nb::arg("repeats") = 1, nb::arg("streaming") = false)
      .def_prop_ro("pinned_caller", &Stream::pinned_caller);

  m.def("stream_store", [](const Kernels& kernels, const std::string& dtype, bool streaming) {
    return std::string(kernels.stores[!streaming ? 0 : dtype == "f64" ? 1 : 2]);
  }, nb::arg("kernels"), nb::arg("dtype"), nb::arg("streaming"), "The instruction with which passes write.");
}
