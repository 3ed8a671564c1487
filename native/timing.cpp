// Times one multiply in a loop, as a step runs it: inside one run of the pool, a barrier after each.
//
// Weights and activations are bytes without a meaning: a multiply's time does not depend on their values, as long as
// no float among them is subnormal or infinite. So one buffer serves every shape and format.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <stdexcept>

#include "bindings.h"
#include "blocking.h"
#include "exec/memory.h"
#include "exec/pool.h"
#include "matrix.h"

namespace nb = nanobind;
using namespace trimtab;
using exec::Memory;

namespace {

// Half, bfloat and float alike are ordinary small numbers when all their bytes lie in 0x28..0x37.
void fill(const Memory& memory) {
  uint64_t state = 88172645463325252ull;
  for (int64_t i = 0; i + 8 <= memory.bytes(); i += 8) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    const uint64_t word = (state & 0x0f0f0f0f0f0f0f0full) + 0x2828282828282828ull;
    std::memcpy(memory.data() + i, &word, 8);
  }
}

Form form_from(const std::string& kind, Format f) {
  Form form;
  form.kind = kind == "grouped" ? Form::grouped : kind == "token" ? Form::token : kind == "wide" ? Form::wide
            : kind == "half" ? Form::half : throw std::invalid_argument("no packed form `" + kind + "`");
  form.group = f.group;
  form.zero_point = uint8_t(f.zero_point());
  return form;
}

int tiles_most(const Kernels& kernels, const std::string& kind, int rows) {
  const int fit = sums_of(form_from(kind, Format()).kind, kernels.max_rows) / std::max(1, rows);
  return std::clamp(fit, 1, 4);
}

class MultiplyTimer {
 public:
  MultiplyTimer(const Kernels& kernels, int64_t weight_bytes, int64_t scratch_bytes)
      : kernels_(kernels), weights_(weight_bytes, true), in_(scratch_bytes, true), out_(scratch_bytes, true) {
    fill(weights_);
    fill(in_);
    std::memset(out_.data(), 0, size_t(out_.bytes()));
  }

  // Seconds of a call in each of `samples` loops of at least `seconds`, or of `calls` if given. With `cold`, each call takes its weights from
  // another part of the buffer, so that none find them in a cache the buffer is larger than.
  std::vector<double> time(Pool& pool, const std::string& format, const std::string& kind, int rows, int64_t outputs, int64_t inputs,
                           bool gated, const Blocking& blocking, bool cold, double seconds, int samples, int64_t calls) {
    if (rows < 1 || outputs < 1 || inputs < 1 || rows > 1 << 20 || outputs > 1 << 24 || inputs > 1 << 24 || samples < 1 ||
        samples > 1000 || !(seconds >= 0 && seconds <= 60))
      throw std::invalid_argument("a multiply of impossible size");
    const Format f = parse_format(format);
    const Form form = form_from(kind, f);
    const int together = block_rows_of(kernels_, blocking.rows, rows);
    const int64_t tiles = round_up(outputs, kTileRows) / kTileRows * (gated ? 2 : 1);
    const int64_t bytes = round_up(tiles * f.tile_bytes(inputs), 4096), block_bytes = form.block_bytes(inputs, together);
    const int64_t blocks = (rows + together - 1) / together, ld = round_up(outputs, kGroup);
    if (bytes > weights_.bytes() || block_bytes * blocks > in_.bytes() || (rows + together) * ld * 4 > out_.bytes())
      throw std::invalid_argument("larger than the timer's buffers");
    Epilogue end;
    end.gated = gated;
    end.out = reinterpret_cast<float*>(out_.data());
    end.ld = ld;
    if (gated && form.kind != Form::token) {  // as a program has it: the next multiply's activations
      end.packed = out_.data();
      end.form = form;
      end.packed_rows = together;
    }
    Multiply m{f, weights_.data(), f.tile_bytes(inputs), tiles, inputs, form, in_.data(), block_bytes, rows, together, end,
               blocking.tiles, blocking.strip_bytes};
    const int64_t units = gated ? (tiles + 3) / 4 : tiles;
    const int64_t grain = grain_of(kernels_, blocking.grain, rows, units, pool.threads());
    const int64_t places = cold ? weights_.bytes() / bytes : 1;

    using Clock = std::chrono::steady_clock;
    double took = 0;
    std::vector<Clock::time_point> begins(size_t(pool.threads()));
    auto loop = [&](int64_t calls) {
      const int64_t first = place_;
      pool.run([&](int thread) {
        Multiply mine = m;
        pool.barrier(thread);
        begins[size_t(thread)] = Clock::now();
        for (int64_t i = 0; i < calls; ++i) {
          mine.weights = weights_.data() + (first + i) % places * bytes;
          pool.share(thread, units, grain, [&](int64_t a, int64_t b) { kernels_.multiply(mine, a, b); });
        }
        if (thread == 0) end_ = Clock::now();
      });
      // From whoever began first: a thread that was put aside here finds its share done by others.
      took = std::chrono::duration<double>(end_ - *std::min_element(begins.begin(), begins.end())).count();
      place_ += calls;
    };
    loop(1);  // touches what the last shape left cold, wakes the threads
    if (calls < 1) {
      loop(1);
      calls = std::max<int64_t>(1, int64_t(seconds / 4 / std::max(took, 1e-8)));
      if (calls > 1) {
        loop(calls);
        calls = std::max<int64_t>(1, int64_t(seconds / (took / double(calls)) + 1));
      }
    }
    std::vector<double> each;
    for (int i = 0; i < samples; ++i) {
      loop(calls);
      each.push_back(took / double(calls));
    }
    return each;
  }

 private:
  const Kernels& kernels_;
  Memory weights_, in_, out_;
  int64_t place_ = 0;
  std::chrono::steady_clock::time_point end_;
};

}  // namespace

void bind_timing(nb::module_& m) {
  nb::class_<MultiplyTimer>(m, "MultiplyTimer")
      .def(nb::init<const Kernels&, int64_t, int64_t>(), nb::keep_alive<1, 2>(), nb::arg("kernels"), nb::arg("weight_bytes"), nb::arg("scratch_bytes"))
      .def("time", &MultiplyTimer::time, nb::call_guard<nb::gil_scoped_release>(), nb::arg("pool"), nb::arg("format"), nb::arg("form"),
           nb::arg("rows"), nb::arg("outputs"), nb::arg("inputs"), nb::arg("gated"), nb::arg("blocking"), nb::arg("cold"),
           nb::arg("seconds"), nb::arg("samples"),
           nb::arg("calls") = 0);
  m.def("tiles_most", &tiles_most, nb::arg("kernels"), nb::arg("form"), nb::arg("rows"),
        "Tiles that a multiply of this form can compute together with blocks of `rows`.");
  m.def("block_rows", &block_rows_of, nb::arg("kernels"), nb::arg("most"), nb::arg("rows"),
        "Rows of a block when a multiply has `rows` of at most `most` a block; 0: the kernels' choice.");
}
