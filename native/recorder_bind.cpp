// Python's view of the recorder, for spans that Python itself writes and for reading them all.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <tuple>

#include "bindings.h"
#include "recorder.h"

namespace nb = nanobind;
using namespace trimtab;

void bind_recorder(nb::module_& m) {
  m.attr("RECORDER") = TRIMTAB_RECORDER != 0;
  m.attr("EVENT_IDS") = nb::make_tuple(int(kSpanRun), int(kSpanBarrier), int(kNoteStep), int(kNoteSpan), int(kNoteOpened), int(kFirstOp));

  nb::class_<Recorder>(m, "Recorder")
      .def(nb::init<int64_t>(), nb::arg("events") = int64_t(1) << 19)
      .def_prop_ro("on", &Recorder::on)
      .def("start", &Recorder::start)
      .def("stop", &Recorder::stop)
      // A span is `end(id, begin(), arg)`; begun while nothing is recorded, it is none.
      .def("begin", [](const Recorder& r) { return r.on() ? Recorder::now() : int64_t(0); })
      .def("end", [](Recorder& r, uint32_t id, int64_t began, uint32_t arg) {
        if (began != 0 && r.on()) r.ring().put({began, Recorder::now(), id, arg});
      }, nb::arg("id"), nb::arg("began"), nb::arg("arg") = 0)
      .def("add", [](Recorder& r, uint32_t id, double begin_s, double end_s, uint32_t arg) {
        if (r.on()) r.ring().put({int64_t(begin_s * 1e9), int64_t(end_s * 1e9), id | kInSeconds, arg});
      }, nb::arg("id"), nb::arg("begin_s"), nb::arg("end_s"), nb::arg("arg") = 0,
         "A span of known times, in seconds of the monotonic clock.")
      .def("take", [](Recorder& r) {
        std::vector<Recorder::Lane> lanes;
        {
          nb::gil_scoped_release release;
          lanes = r.take();
        }
        nb::list out;
        for (Recorder::Lane& lane : lanes)
          out.append(nb::make_tuple(lane.thread_id, lane.worker, lane.dropped,
                                    nb::bytes(reinterpret_cast<const char*>(lane.events.data()), lane.events.size() * sizeof(Event))));
        return out;
      }, "All events since the last call: (thread, worker or -1, dropped, records of 24 bytes) of each thread.")
      .def_prop_ro("resident_bytes", &Recorder::resident_bytes);
}
