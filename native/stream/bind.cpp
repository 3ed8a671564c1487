// Python's view of STREAM.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <atomic>
#include <future>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "bindings.h"
#if defined(TRIMTAB_CUDA)
#include "cuda/stream.h"
#endif
#include "exec/chunk.h"
#include "stream/stream.h"

namespace nb = nanobind;
using namespace trimtab;

namespace {

using Bytes = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

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

// For tests: an element that counts, and that may refuse to be built.
struct Counted {
  struct Counts {
    explicit Counts(int fails) : fails(fails) {}
    const int fails;
    std::atomic<int> tries{0}, built{0}, destroyed{0};
  };
  explicit Counted(Counts* counts) : counts(counts) {
    if (counts->tries.fetch_add(1) == counts->fails) throw std::runtime_error("refused");
    counts->built.fetch_add(1);
  }
  ~Counted() { counts->destroyed.fetch_add(1); }
  Counts* counts;
};

nb::tuple build_and_destroy(StreamPlace& place, int64_t n, int fails) {
  Counted::Counts counts(fails);
  bool raised = false;
  {
    nb::gil_scoped_release release;
    try {
      const exec::Array<Counted> array(exec::Allocator<Counted>(place.first_touch()), n, &counts);
    } catch (const std::runtime_error&) {
      raised = true;
    }
  }
  return nb::make_tuple(counts.built.load(), counts.destroyed.load(), raised);
}

// (begin, end, part) of every piece of [0, n); with a grain, of guided ones.
std::vector<std::tuple<int64_t, int64_t, int>> pieces(StreamPlace& place, int64_t n, int64_t grain) {
  std::vector<std::tuple<int64_t, int64_t, int>> found;
  std::mutex lock;
  auto note = [&](int part, int64_t begin, int64_t end) {
    const std::lock_guard guard(lock);
    found.emplace_back(begin, end, part);
  };
  exec::AnyExecutor on = place.loops();
  if (grain > 0) exec::guided(on, grain).bulk(note, n);
  else on.bulk(note, n);
  return found;
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
      .def_prop_ro("all_pinned", &StreamPlace::all_pinned, "Whether every thread was tied to its processor.")
      .def("region_seconds", &region_seconds, nb::arg("regions"), nb::arg("batches"), nb::call_guard<nb::gil_scoped_release>(),
           "Seconds of each batch of empty parallel regions.")
      .def("pieces", &pieces, nb::arg("n"), nb::arg("grain") = 0, nb::call_guard<nb::gil_scoped_release>())
      .def("build_and_destroy", &build_and_destroy, nb::arg("n"), nb::arg("fails"))
      .def("call_each", [](StreamPlace& place, nb::callable f) {
        const exec::AnyExecutor on = place.loops();
        nb::gil_scoped_release release;
        on.bulk([&](int part, int64_t, int64_t) {
          nb::gil_scoped_acquire acquire;
          f(part);
        }, on.parts());
      }, nb::arg("f"))
      .def("single_calls", [](StreamPlace& place, int count) {
        if (!place.block()) throw std::invalid_argument("only the block executor takes single calls");
        std::vector<std::future<size_t>> calls;
        for (int i = 0; i < count; ++i)
          calls.push_back(place.block()->async([] { return std::hash<std::thread::id>()(std::this_thread::get_id()); }));
        std::vector<size_t> threads;
        for (auto& call : calls) threads.push_back(call.get());
        return threads;
      }, nb::arg("count"), nb::call_guard<nb::gil_scoped_release>(), "Which thread each of `count` single calls ran on.")
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
      }, nb::arg("rounds"), nb::arg("repeats") = 1, nb::arg("streaming") = false);

  m.def("stream_pass", [](StreamPlace& place, const Kernels& kernels, const std::string& pattern, const std::string& dtype,
                          Bytes a, Bytes b, Bytes c, bool streaming) {
    const Number number = by_name<Number>(dtype, {"f64", "f32", "bf16"}, "type");
    const int64_t bytes = int64_t(a.shape(0)), each = number == Number::f64 ? 8 : number == Number::f32 ? 4 : 2;
    if (int64_t(b.shape(0)) != bytes || int64_t(c.shape(0)) != bytes || bytes % each)
      throw std::invalid_argument("a, b, c: as long as each other, and whole numbers");
    const Pattern which = patterns_of({pattern})[0];
    nb::gil_scoped_release release;
    return kernels.stream_pass(which, number, {a.data(), b.data(), c.data(), bytes / each}, place.loops(), streaming);
  }, nb::arg("place"), nb::arg("kernels"), nb::arg("pattern"), nb::arg("dtype"), nb::arg("a"), nb::arg("b"), nb::arg("c"),
     nb::arg("streaming") = false, "One pass over the caller's arrays, given as bytes.");

  m.def("stream_store", [](const Kernels& kernels, const std::string& dtype, bool streaming) {
    return std::string(kernels.stores[!streaming ? 0 : dtype == "f64" ? 1 : 2]);
  }, nb::arg("kernels"), nb::arg("dtype"), nb::arg("streaming"), "The instruction with which passes write.");

#if defined(TRIMTAB_CUDA)
  m.def("cuda_devices", &cuda_devices, "GPUs that can be used.");
  m.def("cuda_stream", [](int device, const std::string& dtype, int64_t n, const std::vector<std::string>& patterns, int rounds) {
    const Number number = by_name<Number>(dtype, {"f64", "f32", "bf16"}, "type");
    const std::vector<Pattern> all = patterns_of(patterns);
    nb::gil_scoped_release release;
    return cuda_stream(device, number, n, all, rounds);
  }, nb::arg("device"), nb::arg("dtype"), nb::arg("n"), nb::arg("patterns"), nb::arg("rounds"),
     "Seconds of each pass of STREAM in a GPU's memory, by pattern and round.");
#endif
}
