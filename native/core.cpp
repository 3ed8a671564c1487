// Python's view of matrices and programs. Arrays arrive as numpy arrays and are checked here once.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/operators.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "bindings.h"
#include "cpu.h"
#include "program.h"

namespace nb = nanobind;
using namespace trimtab;

namespace {

template <class T>
using Array = nb::ndarray<const T, nb::c_contig, nb::device::cpu>;
template <class T>
using Vector = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Output = nb::ndarray<T, nb::c_contig, nb::device::cpu>;
using Floats = std::optional<Vector<float>>;

// Activation form a format multiplies: (kind, group, zero point).
nb::tuple form_of(Format f) {
  const bool grouped = f.kind == Format::grouped;
  return nb::make_tuple(grouped ? "grouped" : f.kind == Format::int8 ? "token" : "wide", grouped ? int(f.group) : 32,
                        grouped ? f.zero_point() : 0);
}

std::vector<float> copy(const Vector<float>& v) { return {v.data(), v.data() + v.shape(0)}; }
// Kernels load biases a tile at a time, so they are padded with zeros.
std::vector<float> copy(const Floats& v) {
  if (!v) return {};
  std::vector<float> out(round_up(int64_t(v->shape(0)), kTileRows), 0.0f);
  std::copy(v->data(), v->data() + v->shape(0), out.begin());
  return out;
}

Form parse_form(const std::string& kind, int group, int zero_point) {
  Form f;
  f.kind = kind == "plain" ? Form::plain : kind == "grouped" ? Form::grouped : kind == "token" ? Form::token
         : kind == "wide" ? Form::wide : kind == "half" ? Form::half
         : throw std::invalid_argument("no activation form `" + kind + "`");
  f.group = uint8_t(group);
  f.zero_point = uint8_t(zero_point);
  return f;
}

KvLayout kv_layout(const std::string& kind, int layers, int heads, int head_dim) {
  KvLayout kv;
  kv.kind = kind == "f32" ? KvLayout::f32 : kind == "bf16" ? KvLayout::bf16 : kind == "int8" ? KvLayout::int8
          : throw std::invalid_argument("no KV type `" + kind + "`; known: bf16, int8, f32");
  kv.layers = layers;
  kv.heads = heads;
  kv.head_dim = head_dim;
  return kv;
}

Epilogue::Activation activation(const std::string& name) {
  if (name == "silu") return Epilogue::silu;
  if (name == "gelu_tanh") return Epilogue::gelu_tanh;
  throw std::invalid_argument("no activation `" + name + "`; known: silu, gelu_tanh");
}

// One for each class of row counts, or none at all.
Blockings by_class(const std::vector<Blocking>& given) {
  Blockings table;
  if (!given.empty() && given.size() != table.size()) throw std::invalid_argument("blockings: one a class of row counts");
  std::copy(given.begin(), given.end(), table.begin());
  return table;
}

// Raw records of a structured numpy array, passed as bytes so that no dtype has to be described twice.
template <class T>
const T* records(const Vector<uint8_t>& bytes, int64_t count, const char* what) {
  if (int64_t(bytes.shape(0)) < count * int64_t(sizeof(T))) throw std::invalid_argument(std::string(what) + ": too few records");
  return reinterpret_cast<const T*>(bytes.data());
}

void expect(const Vector<int32_t>& v, int64_t count, const char* what) {
  if (int64_t(v.shape(0)) != count) throw std::invalid_argument(std::string(what) + ": wrong length");
}

Step make_step(Vector<int32_t> tokens, Vector<int32_t> positions, Vector<int32_t> span_start,
               Vector<int32_t> page_start, Vector<int32_t> pages, Vector<int32_t> wanted) {
  Step s{};
  s.tokens = tokens.data();
  s.positions = positions.data();
  s.rows = int(tokens.shape(0));
  expect(positions, s.rows, "positions");
  s.span_start = span_start.data();
  s.spans = int(span_start.shape(0)) - 1;
  if (s.spans < 1) throw std::invalid_argument("a batch needs at least one span");
  expect(page_start, s.spans + 1, "page_start");
  s.page_start = page_start.data();
  s.pages = pages.data();
  for (int k = 0; k < s.spans; ++k)
    if (s.page_start[k] < 0 || s.page_start[k] > s.page_start[k + 1]) throw std::invalid_argument("page_start must not fall");
  if (s.page_start[s.spans] > int64_t(pages.shape(0))) throw std::invalid_argument("pages: too few");
  s.wanted = wanted.data();
  s.num_wanted = int(wanted.shape(0));
  return s;
}

}  // namespace

void bind_core(nb::module_& m) {
  nb::set_leak_warnings(false);
  m.attr("PAGE_TOKENS") = kPageTokens;
  m.attr("SKETCH_ROWS") = kSketchRows;

  m.def("kernel_sets", [] {
    std::vector<std::string> names;
    for (const KernelSet& set : kernel_sets())
      if (set.missing().empty()) names.push_back(set.name);
    return names;
  }, "Names of the kernel sets this processor runs, best first.");
  m.def("kernel_needs", [] {
    nb::list sets;
    for (const KernelSet& set : kernel_sets()) {
      std::vector<std::string> needs;
      for (const Feature& feature : set.needs) needs.push_back(feature.name);
      sets.append(nb::make_tuple(set.name, needs, set.missing()));
    }
    return sets;
  }, "(name, features it needs, those this processor lacks) of every kernel set built in, best first.");

  nb::class_<Kernels>(m, "Kernels")
      .def_ro("name", &Kernels::name)
      .def_ro("max_rows", &Kernels::max_rows)
      .def_ro("many_rows", &Kernels::many_rows);
  m.def("choose_kernels", [](const std::string& name) { return choose_kernels(name.empty() ? nullptr : name.c_str()); },
        nb::arg("name") = "", nb::rv_policy::reference);

  nb::class_<Blocking>(m, "Blocking")
      .def("__init__", [](Blocking* self, int rows, int tiles, int64_t strip_bytes, int64_t grain) {
        if (rows < 0 || rows > 255 || tiles < 0 || tiles > 4 || strip_bytes < 0 || grain < 0)
          throw std::invalid_argument("blocking: rows 0 to 255, tiles 0 to 4, strip_bytes and grain not negative");
        new (self) Blocking{rows, tiles, strip_bytes, grain};
      }, nb::arg("rows") = 0, nb::arg("tiles") = 0, nb::arg("strip_bytes") = 0, nb::arg("grain") = 0)
      .def_ro("rows", &Blocking::rows)
      .def_ro("tiles", &Blocking::tiles)
      .def_ro("strip_bytes", &Blocking::strip_bytes)
      .def_ro("grain", &Blocking::grain)
      .def(nb::self == nb::self);
  std::vector<int> classes(std::begin(kRowClasses), std::end(kRowClasses));
  m.attr("ROW_CLASSES") = classes;  // most rows of each; one more class has no end

  nb::class_<Matrix>(m, "Matrix")
      .def("__init__", [](Matrix* self, const std::string& format, int64_t rows, int64_t inputs, bool gated) {
        if (rows < 1 || inputs < 1 || rows > (int64_t(1) << 32) || inputs > (int64_t(1) << 24))
          throw std::invalid_argument("matrix of impossible size");
        new (self) Matrix(parse_format(format), rows, inputs, gated);
      }, nb::arg("format"), nb::arg("rows"), nb::arg("inputs"), nb::arg("gated") = false)
      .def("fill", [](Matrix& self, Pool& pool, int64_t row0, int half, int type, Vector<uint8_t> data,
                      std::optional<Vector<int64_t>> order, int64_t start, int64_t count) {
        const auto kind = static_cast<GgmlType>(type);
        const int64_t bytes = row_bytes(kind, self.inputs());
        if (bytes < 0) throw std::invalid_argument("row length does not divide into blocks of this type");
        const int64_t rows = int64_t(data.shape(0)) / bytes;
        if (start < 0 || count < 0 || start > rows || count > rows - start) throw std::invalid_argument("rows outside the tensor");
        if (order) {
          if (int64_t(order->shape(0)) != count) throw std::invalid_argument("order: one entry per row");
          for (int64_t i = 0; i < count; ++i)
            if (order->data()[i] < 0 || order->data()[i] >= rows - start) throw std::invalid_argument("order: row outside the tensor");
        }
        nb::gil_scoped_release release;
        self.fill(pool, row0, half, kind, data.data(), order ? order->data() : nullptr, start, count);
      }, nb::arg("pool"), nb::arg("row0"), nb::arg("half"), nb::arg("type"), nb::arg("data"),
         nb::arg("order").none(), nb::arg("start"), nb::arg("count"))
      .def("unpack", [](const Matrix& self, int64_t row0, Output<float> out, const Kernels& kernels) {
        const int64_t rows = int64_t(out.shape(0));
        if (out.ndim() != 2 || int64_t(out.shape(1)) != self.inputs() || row0 < 0 ||
            row0 > self.rows() * (self.gated() ? 2 : 1) - rows)
          throw std::invalid_argument("out: (rows, inputs) inside the matrix");
        for (int64_t i = 0; i < rows; ++i) self.unpack(kernels, row0 + i, out.data() + i * self.inputs());
      }, nb::arg("row0"), nb::arg("out"), nb::arg("kernels"))
      .def_prop_ro("rows", &Matrix::rows)
      .def_prop_ro("inputs", &Matrix::inputs)
      .def_prop_ro("gated", &Matrix::gated)
      .def_prop_ro("nbytes", &Matrix::bytes)
      .def_prop_ro("format", [](const Matrix& self) { return format_name(self.format()); })
      .def_prop_ro("form", [](const Matrix& self) { return form_of(self.format()); });

  nb::class_<Sketch>(m, "Sketch")
      .def("__init__", [](Sketch* self, Pool& pool, const Kernels& kernels, const Matrix& exact) {
        if (!Sketch::sketchable(exact.format()) || exact.gated()) throw std::invalid_argument("no sketch of this format");
        nb::gil_scoped_release release;
        new (self) Sketch(pool, kernels, exact);
      }, nb::arg("pool"), nb::arg("kernels"), nb::arg("exact"))
      .def_prop_ro("nbytes", &Sketch::bytes)
      .def_prop_ro("form", [](const Sketch& self) { return form_of(self.matrix().format()); });
  m.def("sketch_bytes", [](const std::string& format, int64_t rows, int64_t inputs) {
    return Sketch::sketchable(parse_format(format)) ? Sketch::bytes_for(rows, inputs) : 0;
  }, nb::arg("format"), nb::arg("rows"), nb::arg("inputs"), "Bytes of a sketch; 0 for formats that have none.");

  m.def("format_form", [](const std::string& format) { return form_of(parse_format(format)); });
  m.def("linear", [](Pool& pool, const Kernels& kernels, const Matrix& matrix, Array<float> x, Output<float> out,
                     const std::string& form, int block_rows, int repeats, const Blocking& blocking) {
    // One multiply outside a program, for tests and for measuring kernels: those repeat it on packed activations.
    if (x.ndim() != 2 || out.ndim() != 2 || int64_t(x.shape(1)) != matrix.inputs() || x.shape(0) != out.shape(0) ||
        int64_t(out.shape(1)) != round_up(matrix.rows(), kGroup) || block_rows < 1 || block_rows > kernels.max_rows)
      throw std::invalid_argument("x: (rows, inputs), out: (rows, outputs padded to 32), block_rows: 1 to max_rows");
    const Format f = matrix.format();
    const Form packed = parse_form(form, f.group, f.zero_point());
    const int rows = int(x.shape(0));
    const int64_t block_bytes = packed.block_bytes(matrix.inputs(), block_rows);
    exec::Memory scratch(block_bytes * ((rows + block_rows - 1) / block_rows) + 64, false);
    for (int i = 0; i < rows; ++i)
      kernels.pack_row(x.data() + int64_t(i) * matrix.inputs(), matrix.inputs(), packed, i, block_rows, scratch.data());
    Epilogue end;
    end.gated = matrix.gated();
    end.out = out.data();
    end.ld = int64_t(out.shape(1));
    const Multiply m{f, matrix.data(), matrix.stride(), matrix.tiles(), matrix.inputs(), packed, scratch.data(), block_bytes, rows, block_rows, end,
                     blocking.tiles, blocking.strip_bytes};
    const int64_t units = end.gated ? (matrix.tiles() + 3) / 4 : matrix.tiles();
    nb::gil_scoped_release release;
    const int64_t grain = blocking.grain ? blocking.grain : std::max<int64_t>(1, units / (4 * pool.threads()));
    for (int k = 0; k < repeats; ++k)
      pool.run([&](int thread) {
        pool.share(thread, units, grain, [&](int64_t a, int64_t b) { kernels.multiply(m, a, b); });
      });
  }, nb::arg("pool"), nb::arg("kernels"), nb::arg("matrix"), nb::arg("x"), nb::arg("out"), nb::arg("form"), nb::arg("block_rows"),
     nb::arg("repeats") = 1, nb::arg("blocking") = Blocking());

  m.def("natural_format", [](int type) { return format_name(natural_format(static_cast<GgmlType>(type))); });
  m.def("common_format", [](const std::vector<std::string>& names) {
    Format widest = parse_format(names.at(0));
    for (const std::string& name : names) {
      const Format f = parse_format(name);
      if (f.kind != Format::grouped || widest.kind != Format::grouped) {
        if (!(f == widest)) widest = parse_format("bf16");
        continue;
      }
      widest.bits = std::max(widest.bits, f.bits);
      widest.group = std::min(widest.group, f.group);
      widest.minima |= f.minima;
    }
    return format_name(widest);
  }, "The narrowest format that holds all of the given ones without loss.");
  m.def("matrix_bytes", [](const std::string& format, int64_t rows, int64_t inputs, bool gated) {
    return round_up(Matrix::bytes_for(parse_format(format), rows, inputs, gated), 4096);
  });
  m.def("form_bytes", [](const std::string& kind, int group, int zero_point, int64_t width, int64_t rows) {
    // Room for any block size: a ragged last block adds up to 11 rows.
    const Form f = parse_form(kind, group, zero_point);
    return round_up(f.block_bytes(width, 1) * (f.kind == Form::plain ? rows : rows + 12), 64);
  });
  m.def("page_bytes", [](const std::string& kind, int layers, int heads, int head_dim) {
    return kv_layout(kind, layers, heads, head_dim).page_bytes();
  });

  nb::class_<Place>(m, "Place")
      .def("__init__", [](Place* self, int64_t offset, int64_t width, const std::string& kind, int group, int zero_point) {
        new (self) Place{offset, width, parse_form(kind, group, zero_point), {}};
      }, nb::arg("offset"), nb::arg("width"), nb::arg("kind") = "plain", nb::arg("group") = 32, nb::arg("zero_point") = 0)
      .def("block", [](Place& self, const std::vector<Blocking>& blockings) {
        const Blockings table = by_class(blockings);
        for (int i = 0; i < kNumRowClasses; ++i) self.rows[i] = uint8_t(table[i].rows);
      }, nb::arg("blockings"), "Blocks of the rows that the one multiply which reads this place was given.");

  nb::class_<Program>(m, "Program")
      .def("__init__", [](Program* self, Pool& pool, const Kernels& kernels, const std::string& kv, int layers, int kv_heads,
                          int head_dim, int64_t num_pages, int64_t scratch_bytes, int max_rows, int max_wanted, int64_t vocab) {
        new (self) Program(pool, kernels, kv_layout(kv, layers, kv_heads, head_dim), num_pages, scratch_bytes, max_rows,
                           max_wanted, vocab);
      }, nb::keep_alive<1, 2>(), nb::arg("pool"), nb::arg("kernels"), nb::arg("kv"), nb::arg("layers"), nb::arg("kv_heads"),
         nb::arg("head_dim"), nb::arg("num_pages"), nb::arg("scratch_bytes"), nb::arg("max_rows"), nb::arg("max_wanted"),
         nb::arg("vocab"))
      .def("embed", [](Program& p, const Matrix& table, Place out, float scale) { p.record(EmbedOp{&table, out, scale}); },
           nb::keep_alive<1, 2>())
      .def("angles", [](Program& p, Place out, Vector<float> frequencies, float factor) {
        p.record(AnglesOp{out, copy(frequencies), factor});
      })
      .def("norm", [](Program& p, Place in, Place out, Vector<float> weight, float eps) {
        p.record(NormOp{in, out, copy(weight), eps});
      })
      .def("pack", [](Program& p, Place in, Place out) { p.record(PackOp{in, out}); })
      .def("multiply", [](Program& p, const Matrix& matrix, Place in, Place out, Place add, Floats bias, const std::string& act,
                          const std::vector<Blocking>& blockings) {
        p.record(MultiplyOp{&matrix, in, out, add, copy(bias), activation(act), by_class(blockings)});
      }, nb::keep_alive<1, 2>(), nb::arg("matrix"), nb::arg("in_"), nb::arg("out"), nb::arg("add"), nb::arg("bias").none(),
         nb::arg("activation"), nb::arg("blockings") = std::vector<Blocking>())
      .def("rope_store", [](Program& p, Place in, Place out, Place angles, int layer, int heads, Floats q_norm, Floats k_norm,
                            float eps) {
        p.record(RopeStoreOp{in, out, angles, layer, heads, copy(q_norm), copy(k_norm), eps});
      }, nb::arg("in_"), nb::arg("out"), nb::arg("angles"), nb::arg("layer"), nb::arg("heads"), nb::arg("q_norm").none(),
         nb::arg("k_norm").none(), nb::arg("eps"))
      .def("attend", [](Program& p, Place in, Place out, int layer, int heads, float scale, float softcap, int window) {
        p.record(AttendOp{in, out, layer, heads, scale, softcap, window});
      })
      .def("add", [](Program& p, Place a, Place b, Place out) { p.record(AddOp{a, b, out}); })
      .def("head", [](Program& p, const Matrix& matrix, const Sketch* sketch, Place in, Place packed, Place rough, Place logits,
                      Vector<float> weight, float eps, float softcap) {
        p.record(HeadOp{&matrix, sketch, in, packed, rough, logits, copy(weight), eps, softcap});
      }, nb::keep_alive<1, 2>(), nb::keep_alive<1, 3>(), nb::arg("matrix"), nb::arg("sketch").none(), nb::arg("in_"),
         nb::arg("packed"), nb::arg("rough"), nb::arg("logits"), nb::arg("weight"), nb::arg("eps"), nb::arg("softcap"))
      .def("step", [](Program& p, Vector<int32_t> tokens, Vector<int32_t> positions, Vector<int32_t> span_start,
                      Vector<int32_t> page_start, Vector<int32_t> pages, Vector<int32_t> wanted, Vector<uint8_t> sampling,
                      Vector<int32_t> adjust_start, Vector<uint8_t> adjust, std::optional<Array<uint32_t>> mask,
                      Output<int32_t> out_tokens, Output<float> out_logprobs, Output<int32_t> top_tokens,
                      Output<float> top_logprobs, std::optional<Vector<int32_t>> hidden_rows,
                      std::optional<Output<float>> hidden) {
        Step s = make_step(tokens, positions, span_start, page_start, pages, wanted);
        s.sampling = records<SamplingRow>(sampling, s.num_wanted, "sampling");
        expect(Vector<int32_t>(adjust_start), s.num_wanted + 1, "adjust_start");
        s.adjust_start = adjust_start.data();
        for (int i = 0; i < s.num_wanted; ++i)
          if (s.adjust_start[i] < 0 || s.adjust_start[i] > s.adjust_start[i + 1]) throw std::invalid_argument("adjust_start must not fall");
        s.adjust = records<AdjustEntry>(adjust, s.adjust_start[s.num_wanted], "adjust");
        s.top = top_tokens.ndim() == 2 ? int(top_tokens.shape(1)) : 0;
        if (int64_t(out_tokens.size()) < s.num_wanted || int64_t(out_logprobs.size()) < s.num_wanted ||
            int64_t(top_tokens.size()) < int64_t(s.num_wanted) * s.top || int64_t(top_logprobs.size()) < int64_t(s.num_wanted) * s.top)
          throw std::invalid_argument("results: too small");
        for (int i = 0; i < s.num_wanted; ++i)
          if (s.sampling[i].top_logprobs > s.top) throw std::invalid_argument("top_tokens: narrower than a row's top_logprobs");
        if (mask) {
          if (mask->ndim() != 2 || int64_t(mask->shape(1)) * 32 < p.vocab())
            throw std::invalid_argument("mask: one bit per token");
          s.masks = mask->data();
          s.mask_words = int64_t(mask->shape(1));
        }
        for (int i = 0; i < s.num_wanted; ++i)
          if (s.sampling[i].mask < 0 || s.sampling[i].mask > (mask ? int64_t(mask->shape(0)) : 0))
            throw std::invalid_argument("sampling: a mask that is not there");
        if (hidden_rows) {
          s.hidden_rows = hidden_rows->data();
          s.num_hidden = int(hidden_rows->shape(0));
          if (!hidden || hidden->ndim() != 2 || int64_t(hidden->shape(0)) != s.num_hidden ||
              int64_t(hidden->shape(1)) != p.width())
            throw std::invalid_argument("hidden: (hidden rows, width of the model)");
          s.hidden = hidden->data();
        }
        s.out_tokens = out_tokens.data();
        s.out_logprobs = out_logprobs.data();
        s.out_top_tokens = top_tokens.data();
        s.out_top_logprobs = top_logprobs.data();
        nb::gil_scoped_release release;
        p.run(s);
      }, nb::arg("tokens"), nb::arg("positions"), nb::arg("span_start"), nb::arg("page_start"), nb::arg("pages"),
         nb::arg("wanted"), nb::arg("sampling"), nb::arg("adjust_start"), nb::arg("adjust"), nb::arg("mask").none(),
         nb::arg("out_tokens"), nb::arg("out_logprobs"), nb::arg("top_tokens"), nb::arg("top_logprobs"),
         nb::arg("hidden_rows") = nb::none(), nb::arg("hidden") = nb::none())
      .def("logits", [](Program& p, Vector<int32_t> tokens, Vector<int32_t> positions, Vector<int32_t> span_start,
                        Vector<int32_t> page_start, Vector<int32_t> pages, Vector<int32_t> wanted, Output<float> out) {
        Step s = make_step(tokens, positions, span_start, page_start, pages, wanted);
        if (out.ndim() != 2 || int64_t(out.shape(0)) != s.num_wanted || int64_t(out.shape(1)) != p.vocab())
          throw std::invalid_argument("out: (wanted, vocabulary)");
        s.logits = out.data();
        nb::gil_scoped_release release;
        p.run(s);
      })
      .def("record_into", [](Program& p, Pool& pool, Recorder& recorder) {
        p.recorder = &recorder;
        if constexpr (requires { pool.recorder; }) pool.recorder = &recorder;
      },
           nb::keep_alive<1, 3>(), nb::keep_alive<2, 3>(), nb::arg("pool"), nb::arg("recorder"),
           "Let this recorder see the program's runs and the pool's waits; before the first step.")
      .def_prop_ro("num_pages", &Program::num_pages)
      .def("page", [](Program& p, int64_t page) {
        // A page's bytes where they lie. The caller sees to it that no step writes the page meanwhile.
        const int64_t bytes = p.page_bytes();
        if (page < 0 || page >= p.num_pages()) throw std::invalid_argument("page outside the pool");
        return nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>>(p.pages().data() + page * bytes, {size_t(bytes)}, nb::find(&p));
      }, nb::arg("page"))
      .def_prop_ro("width", &Program::width)
      .def_prop_ro("scratch_bytes", [](const Program& p) { return p.scratch().bytes(); })
      .def_prop_ro("resident", [](const Program& p) {
        return std::map<std::string, int64_t>{{"scratch", p.scratch().resident_bytes()}, {"pages", p.pages().resident_bytes()}};
      }, "Bytes that the system has given memory for.")
      .def_prop_ro("page_memory_bytes", [](const Program& p) { return p.pages().bytes(); });
}
