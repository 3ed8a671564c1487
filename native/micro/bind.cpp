// Python's view of the microbenchmarks: `trimtab._native.micro`.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "bindings.h"
#include "micro/clock.h"
#include "micro/memory.h"
#include "micro/sync.h"
#include "micro/units.h"

namespace nb = nanobind;
using namespace trimtab::micro;

namespace {

const Kernel& known(const std::string& name, int width, int chains) {
  const Kernel* found = find(name.c_str(), width, chains);
  if (!found) throw std::invalid_argument("no kernel " + name + " of that width and number of chains here");
  return *found;
}

nb::dict described(const Kernel& k) {
  nb::dict d;
  d["name"] = k.name, d["suite"] = k.suite, d["width_bits"] = k.width, d["chains"] = k.chains, d["steps"] = k.steps;
  d["ops"] = k.ops, d["bytes"] = k.bytes, d["free"] = k.free, d["pair"] = k.pair, d["text"] = k.text;
  d["features"] = k.features, d["compiled"] = k.begin == nullptr;
  return d;
}

}  // namespace

void bind_micro(nb::module_& parent) {
  nb::module_ m = parent.def_submodule("micro", "Kernels whose only purpose is to be timed");
  using Guard = nb::call_guard<nb::gil_scoped_release>;
  m.def("kernels", [] {
    nb::list out;
    for (const Kernel* each : kernels()) out.append(described(*each));
    return out;
  }, "What this processor runs, one dict a kernel.");
  m.def("code", [](const std::string& name, int width, int chains) {
    const Kernel& k = known(name, width, chains);
    return nb::bytes(reinterpret_cast<const char*>(k.begin), size_t(k.end - k.begin));
  }, nb::arg("name"), nb::arg("width_bits"), nb::arg("chains"), "Machine code of the loop that is timed.");
  m.def("time", [](const std::string& name, int width, int chains, int samples, const std::vector<int>& cpus, bool zeros) {
    const Kernel& k = known(name, width, chains);
    std::vector<std::vector<std::tuple<double, double, double>>> out;
    nb::gil_scoped_release release;
    for (const auto& list : time_kernel(k, samples, cpus, zeros)) {
      auto& mine = out.emplace_back();
      for (const Sample& s : list) mine.emplace_back(s.cycles, s.ns, s.hz);
    }
    return out;
  }, nb::arg("name"), nb::arg("width_bits"), nb::arg("chains"), nb::arg("samples"), nb::arg("cpus"), nb::arg("zeros") = false,
     "(cycles, ns) of a step and the core's frequency, by processor and sample.");
  m.def("frequencies", &frequencies, nb::arg("samples"), Guard(), "Hz of this core, by a chain of additions.");
  m.def("tick_hz", [] { return 1e9 / tick_ns(); }, Guard(), "Of the counter that times are read from.");
  m.def("nothing", [] {}, "Does nothing: what a call from Python costs.");

  nb::class_<Chase>(m, "Chase")
      .def(nb::init<size_t, bool>(), nb::arg("bytes"), nb::arg("huge"))
      .def("link", &Chase::link, nb::arg("bytes"), nb::arg("stride"), nb::arg("random"), nb::arg("spread") = false, Guard())
      .def("run", [](Chase& chase, int64_t hops, int samples, int64_t warm, std::optional<std::vector<int>> cpus) {
        std::vector<std::pair<double, double>> out;
        nb::gil_scoped_release release;
        for (const Chase::Hop& hop : cpus ? chase.run_parallel(hops, samples, warm, *cpus) : chase.run(hops, samples, warm))
          out.emplace_back(hop.ns, hop.cycles);
        return out;
      }, nb::arg("hops"), nb::arg("samples"), nb::arg("warm"), nb::arg("cpus") = nb::none(),
         "(ns, cycles) of a hop by sample; with `cpus`, of the first of them with many hops under way on each.")
      .def("length", &Chase::length, Guard())
      .def_prop_ro("nodes", &Chase::nodes)
      .def_prop_ro("nbytes", &Chase::bytes)
      .def_prop_ro("huge_bytes", &Chase::huge_bytes);

  m.def("time_sync", &time_sync, nb::arg("event"), nb::arg("samples"), nb::arg("cpus"), Guard(), "Nanoseconds of an event.");
  m.def("time_os", &time_os, nb::arg("event"), nb::arg("samples"), nb::arg("cpus"), nb::arg("path") = "", Guard(),
        "Nanoseconds of an event.");
}
