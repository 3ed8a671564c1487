// Python's view of the executors.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <atomic>

#include "bindings.h"
#include "exec/crowding.h"
#include "exec/pool.h"
#include "exec/target.h"

namespace nb = nanobind;
using namespace trimtab;

void bind_exec(nb::module_& m) {
  m.attr("EXECUTOR") = kExecutor;
  nb::class_<exec::Crowding>(m, "Crowding")
      .def(nb::init<>())
      .def("together", &exec::Crowding::together, nb::arg("kind"))
      .def("ran", &exec::Crowding::ran, nb::arg("seconds"), nb::arg("stalls"));

  nb::class_<Pool>(m, "Pool")
      .def(nb::init<int, std::vector<int>>(), nb::arg("threads"), nb::arg("cpus") = std::vector<int>())
      .def_prop_ro("threads", &Pool::threads)
      .def("count_up", [](Pool& pool, int64_t units, int64_t grain, int repeats) {
        // For tests: every unit must be visited exactly once per repeat.
        std::vector<std::atomic<int32_t>> seen(units);
        nb::gil_scoped_release release;
        pool.run([&](int thread) {
          for (int k = 0; k < repeats; ++k)
            pool.share(thread, units, grain, [&](int64_t a, int64_t b) { for (; a < b; ++a) seen[a].fetch_add(1); });
        });
        for (auto& x : seen)
          if (x.load() != repeats) return false;
        return true;
      }, nb::arg("units"), nb::arg("grain"), nb::arg("repeats"));

  m.def("parse_cpus", &exec::parse_cpus, nb::arg("text"), "Processors of a list such as `0-3,8`.");
  m.def("host_targets", [](const std::string& root) {
    std::vector<std::pair<int, std::vector<int>>> found;
    for (const exec::Target& target : exec::host_targets(root)) found.emplace_back(target.node, target.cpus);
    return found;
  }, nb::arg("root") = "/sys", "(number, processors this process may use) of every NUMA domain.");
}
