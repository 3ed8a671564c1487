// The sampler on numpy arrays. Steps call sample_row itself; this serves the tests and runners without a program.
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bindings.h"
#include "sampler.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

template <class T>
using Array = nb::ndarray<const T, nb::c_contig, nb::device::cpu>;

template <class T>
nb::object to_numpy(std::vector<T>&& values, std::initializer_list<size_t> shape) {
  auto* kept = new std::vector<T>(std::move(values));
  nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return nb::cast(nb::ndarray<nb::numpy, T>(kept->data(), shape, owner));
}

const trimtab::SamplerVariant* variant_called(const std::string& name) {
  if (name.empty()) return nullptr;
  for (const auto* variant : trimtab::sampler_variants()) {
    if (name == variant->name) return variant;
  }
  throw nb::value_error(("no sampler variant `" + name + "` on this processor").c_str());
}

void require(bool holds, const char* problem) {
  if (!holds) throw nb::value_error(problem);
}

nb::tuple sample_rows(Array<float> logits, Array<uint8_t> sampling, std::optional<Array<int32_t>> adjust_start,
                      std::optional<Array<uint8_t>> adjust, std::optional<Array<uint32_t>> mask, int width,
                      const std::string& variant) {
  using namespace trimtab;
  require(logits.ndim() == 2, "logits must have shape (rows, vocab)");
  const size_t rows = logits.shape(0), vocab = logits.shape(1);
  require(vocab > 0 && vocab <= 1 << 30, "the vocabulary must have 1 to 2**30 tokens");
  require(sampling.size() == rows * sizeof(SamplingRow), "sampling must hold one SAMPLING record a row, as bytes");
  const size_t words = (vocab + 31) / 32;
  require(!mask || (mask->ndim() == 2 && mask->shape(0) == rows && mask->shape(1) == words),
          "mask must have shape (rows, ceil(vocab / 32))");
  require(adjust_start.has_value() == adjust.has_value(), "adjust and adjust_start come together");
  require(width >= 0 && width <= 1 << 20, "width is out of range");
  std::vector<int32_t> starts(rows + 1, 0);
  if (adjust) {
    require(adjust_start->size() == rows + 1, "adjust_start must have rows + 1 places");
    std::copy(adjust_start->data(), adjust_start->data() + rows + 1, starts.begin());
    require(starts[0] >= 0 && std::is_sorted(starts.begin(), starts.end()) &&
                size_t(starts[rows]) * sizeof(AdjustEntry) <= adjust->size(),
            "adjust_start must ascend inside adjust");
  }
  const SamplerVariant* chosen = variant_called(variant);

  std::vector<int32_t> tokens(rows), top_ids(rows * width);
  std::vector<float> logprobs(rows), top_logprobs(rows * width);
  {
    nb::gil_scoped_release release;
    const auto scratch = std::make_unique<double[]>(sampler_scratch_bytes(int(vocab)) / sizeof(double) + 1);
    for (size_t r = 0; r < rows; ++r) {
      SamplingRow row;
      std::memcpy(&row, sampling.data() + r * sizeof row, sizeof row);
      std::vector<AdjustEntry> entries(starts[r + 1] - starts[r]);
      if (!entries.empty()) {
        std::memcpy(entries.data(), adjust->data() + starts[r] * sizeof(AdjustEntry),
                    entries.size() * sizeof(AdjustEntry));
      }
      sample_row(logits.data() + r * vocab, int(vocab), row, entries.data(), int(entries.size()),
                 mask ? mask->data() + r * words : nullptr, reinterpret_cast<float*>(scratch.get()), &tokens[r],
                 &logprobs[r], top_ids.data() + r * width, top_logprobs.data() + r * width, width, chosen);
    }
  }
  const size_t places = size_t(width);
  return nb::make_tuple(to_numpy(std::move(tokens), {rows}), to_numpy(std::move(logprobs), {rows}),
                        to_numpy(std::move(top_ids), {rows, places}),
                        to_numpy(std::move(top_logprobs), {rows, places}));
}

}  // namespace

void bind_sampler(nb::module_& m) {
  m.def("sample_rows", &sample_rows, "logits"_a, "sampling"_a, "adjust_start"_a = nb::none(),
        "adjust"_a = nb::none(), "mask"_a = nb::none(), "width"_a = 0, "variant"_a = "",
        "Choose or score a token for each row of logits: (tokens, logprobs, top_tokens, top_logprobs).\n\n"
        "`sampling` and `adjust` are SAMPLING and ADJUST arrays viewed as uint8; `variant` is one of\n"
        "sampler_variants(), the first by default.");
  m.def("sampler_variants", [] {
    nb::list names;
    for (const auto* variant : trimtab::sampler_variants()) names.append(variant->name);
    return names;
  });
}
