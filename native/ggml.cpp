#include "ggml.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <stdexcept>
#include <string>

#include "bindings.h"

namespace trimtab {
namespace ggml {
namespace {

// Values of the sixteen codes of IQ4_NL.
constexpr int8_t kCodebook[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

struct Pair { uint8_t scale, min; };

// Eight 6-bit (scale, minimum) pairs in 12 bytes: pairs 0-3 lie in the low six bits of bytes 0-3 and 4-7;
// pairs 4-7 take their low nibbles from bytes 8-11 and their upper two bits from the top of bytes 0-7.
Pair six_bits(const uint8_t* steps, int64_t i) {
  if (i < 4) return {uint8_t(steps[i] & 63), uint8_t(steps[i + 4] & 63)};
  const uint8_t low = steps[i + 4];
  return {uint8_t((low & 15) | (steps[i - 4] >> 6 << 4)), uint8_t((low >> 4) | (steps[i] >> 6 << 4))};
}

template <typename Block>
void decode_five(const Block& block, int zero, Group32& out) {
  const uint32_t fifth = block.fifth;
  for (int i = 0; i < 16; ++i) {
    out.q[i] = int8_t(((block.nibbles[i] & 15) | ((fifth >> i & 1) << 4)) - zero);
    out.q[i + 16] = int8_t(((block.nibbles[i] >> 4) | ((fifth >> (i + 16) & 1) << 4)) - zero);
  }
}

}  // namespace

void decode(const BlockQ5_0* row, int64_t group, Group32& out) {
  decode_five(row[group], 16, out);
  one_step(out, from_half(row[group].scale), 0.0f);
}

void decode(const BlockQ5_1* row, int64_t group, Group32& out) {
  decode_five(row[group], 0, out);
  one_step(out, from_half(row[group].scale), from_half(row[group].min));
}

void decode(const BlockQ2_K* row, int64_t group, Group32& out) {
  const BlockQ2_K& block = row[group / 8];
  const int64_t g = group % 8;
  const uint8_t* q = block.q + g / 4 * 32;
  const int shift = int(g % 4) * 2;
  for (int i = 0; i < 32; ++i) out.q[i] = int8_t(q[i] >> shift & 3);
  const float scale = from_half(block.scale), min = from_half(block.min);
  for (int h = 0; h < 2; ++h) {
    const uint8_t step = block.steps[2 * g + h];
    out.scale[h] = scale * float(step & 15);
    out.min[h] = -(min * float(step >> 4));
  }
}

void decode(const BlockQ3_K* row, int64_t group, Group32& out) {
  const BlockQ3_K& block = row[group / 8];
  const int64_t g = group % 8;
  const uint8_t* q = block.q + g / 4 * 32;
  const int shift = int(g % 4) * 2;
  for (int i = 0; i < 32; ++i) out.q[i] = int8_t((q[i] >> shift & 3) + ((block.high[i] >> g & 1) << 2) - 4);
  const float scale = from_half(block.scale);
  for (int h = 0; h < 2; ++h) {
    const int64_t i = 2 * g + h;
    const int low = block.steps[i % 8] >> (i / 8 * 4) & 15, high = block.steps[8 + i % 4] >> (i / 4 * 2) & 3;
    out.scale[h] = scale * float((low | high << 4) - 32);
  }
  out.min[0] = out.min[1] = 0.0f;
}

void decode(const BlockQ4_K* row, int64_t group, Group32& out) {
  const BlockQ4_K& block = row[group / 8];
  const int64_t g = group % 8;
  const uint8_t* q = block.q + g / 2 * 32;
  const int shift = int(g % 2) * 4;
  for (int i = 0; i < 32; ++i) out.q[i] = int8_t(q[i] >> shift & 15);
  const Pair step = six_bits(block.steps, g);
  one_step(out, from_half(block.scale) * float(step.scale), -(from_half(block.min) * float(step.min)));
}

void decode(const BlockQ5_K* row, int64_t group, Group32& out) {
  const BlockQ5_K& block = row[group / 8];
  const int64_t g = group % 8;
  const uint8_t* q = block.q + g / 2 * 32;
  const int shift = int(g % 2) * 4;
  for (int i = 0; i < 32; ++i) out.q[i] = int8_t((q[i] >> shift & 15) | (block.fifth[i] >> g & 1) << 4);
  const Pair step = six_bits(block.steps, g);
  one_step(out, from_half(block.scale) * float(step.scale), -(from_half(block.min) * float(step.min)));
}

void decode(const BlockQ6_K* row, int64_t group, Group32& out) {
  const BlockQ6_K& block = row[group / 8];
  const int64_t g = group % 8;
  const uint8_t* low = block.low + g / 4 * 64 + g % 2 * 32;
  const uint8_t* high = block.high + g / 4 * 32;
  const int low_shift = int(g % 4) / 2 * 4, high_shift = int(g % 4) * 2;
  for (int i = 0; i < 32; ++i) {
    out.q[i] = int8_t(((low[i] >> low_shift & 15) | (high[i] >> high_shift & 3) << 4) - 32);
  }
  const float scale = from_half(block.scale);
  out.scale[0] = scale * float(block.steps[2 * g]);
  out.scale[1] = scale * float(block.steps[2 * g + 1]);
  out.min[0] = out.min[1] = 0.0f;
}

void decode_codebook(const BlockQ4_0* row, int64_t group, Group32& out) {
  const BlockQ4_0& block = row[group];
  for (int i = 0; i < 16; ++i) {
    out.q[i] = kCodebook[block.nibbles[i] & 15];
    out.q[i + 16] = kCodebook[block.nibbles[i] >> 4];
  }
  one_step(out, from_half(block.scale), 0.0f);
}

void decode_other(GgmlType type, const uint8_t* row, int64_t group, Group32& out) {
  switch (type) {
    case GgmlType::Q5_0: return decode(reinterpret_cast<const BlockQ5_0*>(row), group, out);
    case GgmlType::Q5_1: return decode(reinterpret_cast<const BlockQ5_1*>(row), group, out);
    case GgmlType::Q2_K: return decode(reinterpret_cast<const BlockQ2_K*>(row), group, out);
    case GgmlType::Q3_K: return decode(reinterpret_cast<const BlockQ3_K*>(row), group, out);
    case GgmlType::Q4_K: return decode(reinterpret_cast<const BlockQ4_K*>(row), group, out);
    case GgmlType::Q5_K: return decode(reinterpret_cast<const BlockQ5_K*>(row), group, out);
    case GgmlType::Q6_K: return decode(reinterpret_cast<const BlockQ6_K*>(row), group, out);
    case GgmlType::IQ4_NL: return decode_codebook(reinterpret_cast<const BlockQ4_0*>(row), group, out);
    default: throw std::invalid_argument("no groups in ggml type " + std::to_string(int(type)));
  }
}

}  // namespace ggml

GgmlBlock block_of(GgmlType type) {
  switch (type) {
    case GgmlType::F32: return {1, 4};
    case GgmlType::F16: return {1, 2};
    case GgmlType::BF16: return {1, 2};
    case GgmlType::Q4_0: return {32, sizeof(ggml::BlockQ4_0)};
    case GgmlType::Q4_1: return {32, sizeof(ggml::BlockQ4_1)};
    case GgmlType::Q5_0: return {32, sizeof(ggml::BlockQ5_0)};
    case GgmlType::Q5_1: return {32, sizeof(ggml::BlockQ5_1)};
    case GgmlType::Q8_0: return {32, sizeof(ggml::BlockQ8_0)};
    case GgmlType::Q2_K: return {256, sizeof(ggml::BlockQ2_K)};
    case GgmlType::Q3_K: return {256, sizeof(ggml::BlockQ3_K)};
    case GgmlType::Q4_K: return {256, sizeof(ggml::BlockQ4_K)};
    case GgmlType::Q5_K: return {256, sizeof(ggml::BlockQ5_K)};
    case GgmlType::Q6_K: return {256, sizeof(ggml::BlockQ6_K)};
    case GgmlType::IQ4_NL: return {32, sizeof(ggml::BlockQ4_0)};
  }
  return {0, 0};
}

bool has_groups(GgmlType type) { return block_of(type).weights > 1; }

bool has_minima(GgmlType type) {
  switch (type) {
    case GgmlType::Q4_1: case GgmlType::Q5_1: case GgmlType::Q2_K: case GgmlType::Q4_K: case GgmlType::Q5_K:
      return true;
    default:
      return false;
  }
}

int64_t row_bytes(GgmlType type, int64_t weights) {
  const GgmlBlock block = block_of(type);
  if (block.weights == 0 || weights < 0 || weights % block.weights) return -1;
  return weights / block.weights * block.bytes;
}

void dequantize(GgmlType type, const uint8_t* source, int64_t weights, float* out) {
  if (row_bytes(type, weights) < 0) throw std::invalid_argument("weights do not fill whole blocks");
  if (type == GgmlType::F32) {
    std::memcpy(out, source, size_t(weights) * 4);
  } else if (!has_groups(type)) {
    for (int64_t i = 0; i < weights; ++i) {
      uint16_t bits;
      std::memcpy(&bits, source + 2 * i, 2);
      out[i] = type == GgmlType::F16 ? ggml::from_half(bits) : ggml::from_bf16(bits);
    }
  } else {
    // Adding even a zero would turn a -0 of a format without minima into +0.
    const bool minima = has_minima(type);
    Group32 group;
    for (int64_t g = 0; g < weights / 32; ++g, out += 32) {
      decode_group(type, source, g, group);
      for (int i = 0; i < 32; ++i) out[i] = group.scale[i / 16] * float(group.q[i]);
      if (minima) {
        for (int i = 0; i < 32; ++i) out[i] += group.min[i / 16];
      }
    }
  }
}

}  // namespace trimtab

namespace nb = nanobind;
using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

namespace {

template <typename T, typename... Sizes>
auto new_array(Sizes... sizes) {
  const size_t shape[] = {size_t(sizes)...};
  size_t count = 1;
  for (size_t size : shape) count *= size;
  T* data = new T[count];
  nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
  return nb::ndarray<nb::numpy, T>(data, sizeof...(sizes), shape, owner);
}

trimtab::GgmlType checked(int type, const Bytes& data, int64_t weights) {
  const int64_t bytes = trimtab::row_bytes(trimtab::GgmlType(type), weights);
  if (bytes < 0) {
    throw nb::value_error(("type " + std::to_string(type) + " cannot hold " + std::to_string(weights) +
                           " weights").c_str());
  }
  if (int64_t(data.size()) < bytes) {
    throw nb::value_error(("needs " + std::to_string(bytes) + " bytes, got " + std::to_string(data.size()))
                              .c_str());
  }
  return trimtab::GgmlType(type);
}

}  // namespace

void bind_ggml(nb::module_& m) {
  m.def("row_bytes", [](int type, int64_t weights) {
    return trimtab::row_bytes(trimtab::GgmlType(type), weights);
  }, nb::arg("type"), nb::arg("weights"), "Bytes of `weights` weights; -1 if they do not fill whole blocks.");

  m.def("dequantize", [](int type, Bytes data, int64_t n) {
    const trimtab::GgmlType kind = checked(type, data, n);
    auto out = new_array<float>(n);
    {
      nb::gil_scoped_release free;
      trimtab::dequantize(kind, data.data(), n, static_cast<float*>(out.data()));
    }
    return out;
  }, nb::arg("type"), nb::arg("data"), nb::arg("n"), "The first `n` weights of `data` as float32.");

  m.def("decode_groups", [](int type, Bytes data, int64_t n) {
    const trimtab::GgmlType kind = checked(type, data, n);
    if (!trimtab::has_groups(kind)) throw nb::value_error("float types have no groups");
    const int64_t groups = n / 32;
    auto q = new_array<int8_t>(groups, 32);
    auto scale = new_array<float>(groups, 2);
    auto min = new_array<float>(groups, 2);
    trimtab::Group32 group;
    for (int64_t g = 0; g < groups; ++g) {
      trimtab::decode_group(kind, data.data(), g, group);
      std::memcpy(static_cast<int8_t*>(q.data()) + 32 * g, group.q, sizeof group.q);
      std::memcpy(static_cast<float*>(scale.data()) + 2 * g, group.scale, sizeof group.scale);
      std::memcpy(static_cast<float*>(min.data()) + 2 * g, group.min, sizeof group.min);
    }
    return nb::make_tuple(q, scale, min);
  }, nb::arg("type"), nb::arg("data"), nb::arg("n"),
     "Integers (n/32, 32), scales (n/32, 2) and minima (n/32, 2): weight = scale * q + min.");
}
