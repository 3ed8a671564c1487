#include "matrix.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "exec/allocator.h"
#include "exec/rows.h"

namespace trimtab {
namespace {

// Round to nearest even through the float's own rounding: adding the number pushes the fraction out. Right up to
// 2^22, and unlike a call of the library it vectorizes.
float to_even(float x) { return (x + 0x1.8p23f) - 0x1.8p23f; }

uint16_t to_half(float x) {
  const uint32_t sign = __builtin_bit_cast(uint32_t, x) >> 16 & 0x8000;
  x = std::fabs(x);
  if (!(x < 65520.0f)) return uint16_t(sign | (x != x ? 0x7e00 : 0x7c00));
  if (x < 0x1p-14f) {  // subnormal half
    return uint16_t(sign | uint32_t(to_even(x * 0x1p24f)));
  }
  uint32_t bits = __builtin_bit_cast(uint32_t, x);
  bits += 0xfff + (bits >> 13 & 1);
  return uint16_t(sign | (bits - (112u << 23)) >> 13);
}

uint16_t to_bf16(float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x);
  if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t(bits >> 16 | 0x40);
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// 32 unsigned values of one row into its lane of a step.
void put_values(uint8_t* step, int lane, int bits, const uint8_t* q) {
  if (bits == 8) {
    for (int line = 0; line < 8; ++line) std::memcpy(step + line * 64 + lane * 4, q + line * 4, 4);
    return;
  }
  for (int line = 0; line < 4; ++line) {
    uint32_t low, high;
    std::memcpy(&low, q + line * 4, 4);
    std::memcpy(&high, q + 16 + line * 4, 4);
    low |= high << 4;
    std::memcpy(step + line * 64 + lane * 4, &low, 4);
  }
}

}  // namespace

Format parse_format(const std::string& name) {
  if (name == "bf16") return {};
  if (name == "int8") return {Format::int8, 8, 32, false};
  Format f{Format::grouped, 4, 32, false};
  std::string rest = name;
  if (rest.rfind("q4", 0) == 0) f.bits = 4;
  else if (rest.rfind("q8", 0) == 0) f.bits = 8;
  else throw std::invalid_argument("no weight format `" + name + "`; known: bf16, int8, q4, q8 (with /16, +min)");
  rest = rest.substr(2);
  if (rest.rfind("/16", 0) == 0) { f.group = 16; rest = rest.substr(3); }
  if (rest == "+min") { f.minima = true; rest = ""; }
  if (!rest.empty()) throw std::invalid_argument("no weight format `" + name + "`");
  return f;
}

std::string format_name(Format f) {
  if (f.kind == Format::bf16) return "bf16";
  if (f.kind == Format::int8) return "int8";
  return std::string(f.bits == 4 ? "q4" : "q8") + (f.group == 16 ? "/16" : "") + (f.minima ? "+min" : "");
}

Format natural_format(GgmlType type) {
  switch (type) {
    case GgmlType::Q4_0: return {Format::grouped, 4, 32, false};
    case GgmlType::Q4_1: case GgmlType::Q4_K: return {Format::grouped, 4, 32, true};
    case GgmlType::Q2_K: return {Format::grouped, 4, 16, true};
    case GgmlType::Q3_K: return {Format::grouped, 4, 16, false};
    case GgmlType::Q5_0: case GgmlType::Q8_0: case GgmlType::IQ4_NL: return {Format::grouped, 8, 32, false};
    case GgmlType::Q5_1: case GgmlType::Q5_K: return {Format::grouped, 8, 32, true};
    case GgmlType::Q6_K: return {Format::grouped, 8, 16, false};
    default: return {};
  }
}

int64_t Matrix::bytes_for(Format f, int64_t rows, int64_t inputs, bool gated) {
  return round_up(rows, kTileRows) / kTileRows * (gated ? 2 : 1) * f.tile_bytes(inputs);
}

Matrix::Matrix(Format format, int64_t rows, int64_t inputs, bool gated)
    : format_(format), rows_(rows), inputs_(inputs),
      tiles_(round_up(rows, kTileRows) / kTileRows * (gated ? 2 : 1)),
      stride_(format.tile_bytes(inputs)), gated_(gated),
      memory_(tiles_ * stride_, true) {}

void Matrix::pack_groups(uint8_t* tile, int lane, GgmlType type, const uint8_t* row) const {
  const int halves = kGroup / format_.group;
  const int64_t step_bytes = format_.step_bytes();
  // A source without minima goes exactly into a format with them: its zero point becomes the minimum.
  const Format natural = natural_format(type);
  const bool shifted = format_.minima && !natural.minima;
  const int zero = shifted ? natural.zero_point() : format_.zero_point();
  Group32 group;
  uint8_t q[kGroup];
  for (int64_t g = 0; g < inputs_ / kGroup; ++g, tile += step_bytes) {
    decode_group(type, row, g, group);
    for (int i = 0; i < kGroup; ++i) q[i] = uint8_t(group.q[i] + zero);
    put_values(tile, lane, format_.bits, q);
    uint16_t* scales = (uint16_t*)(tile + format_.bits * 64);
    for (int h = 0; h < halves; ++h) {
      scales[h * kTileRows + lane] = to_half(group.scale[h]);
      if (format_.minima)
        scales[(halves + h) * kTileRows + lane] = to_half(shifted ? -float(zero) * group.scale[h] : group.min[h]);
    }
  }
}

float Matrix::pack_floats(uint8_t* tile, int lane, const float* row) const {
  const int64_t padded = round_up(inputs_, kGroup);
  auto at = [&](int64_t k) { return k < inputs_ ? row[k] : 0.0f; };
  float lost[8] = {};
  if (format_.kind == Format::bf16) {
    uint16_t* pairs = (uint16_t*)tile;
    for (int64_t k = 0; k < padded; ++k) pairs[k / 2 * 32 + lane * 2 + k % 2] = to_bf16(at(k));
  } else if (format_.kind == Format::int8) {
    float peak = 0;
    for (int64_t k = 0; k < inputs_; ++k) peak = std::max(peak, std::fabs(row[k]));
    const float scale = peak / 127.0f, inverse = peak > 0 ? 127.0f / peak : 0.0f;
    for (int64_t k = 0; k < padded; ++k)
      tile[k / 4 * 64 + lane * 4 + k % 4] = uint8_t(128 + int(to_even(at(k) * inverse)));
    std::memcpy(tile + padded * kTileRows + 4 * lane, &scale, 4);
  } else {
    const int span = format_.group, halves = kGroup / span, top = (1 << format_.bits) - 1;
    const int zero = format_.zero_point();
    for (int64_t k = 0; k < padded; k += kGroup, tile += format_.step_bytes()) {
      float x[kGroup];
      if (k + kGroup <= inputs_) {
        std::memcpy(x, row + k, sizeof x);
      } else {
        for (int i = 0; i < kGroup; ++i) x[i] = at(k + i);
      }
      uint8_t q[kGroup];
      uint16_t* scales = (uint16_t*)(tile + format_.bits * 64);
      for (int h = 0; h < halves; ++h) {
        const float* part = x + h * span;
        float lows[8] = {}, highs[8] = {};  // by lane, so that the compiler may take them together
        for (int i = 0; i < span; i += 8)
          for (int lane = 0; lane < 8; ++lane) {
            const float v = part[i + lane];
            lows[lane] = v < lows[lane] ? v : lows[lane];
            highs[lane] = v > highs[lane] ? v : highs[lane];
          }
        const float low = *std::min_element(lows, lows + 8), high = *std::max_element(highs, highs + 8);
        // Without minima the larger side takes the full negative range, as the fixed zero point allows.
        const float edge = -low > high ? low : high;
        const float scale = format_.minima ? (high - low) / float(top) : edge / -float(zero);
        const float inverse = scale != 0 ? 1.0f / scale : 0.0f;
        const float shift = format_.minima ? low : 0.0f, origin = float(zero), most = float(top);
        float levels[kGroup];
        for (int i = 0; i < span; ++i) {
          float level = to_even((part[i] - shift) * inverse + origin);
          level = level > 0 ? level : 0;
          levels[i] = level < most ? level : most;
        }
        for (int i = 0; i < span; ++i) q[h * span + i] = uint8_t(int(levels[i]));
        const uint16_t stored = scales[h * kTileRows + lane] = to_half(scale);
        const float step = ggml::from_half(stored);
        for (int i = 0; i < span; i += 8)
          for (int j = 0; j < 8; ++j) {
            const float error = part[i + j] - ((levels[i + j] - origin) * step + shift);
            lost[j] += error * error;
          }
        if (format_.minima) scales[(halves + h) * kTileRows + lane] = to_half(low);
      }
      put_values(tile, lane, format_.bits, q);
    }
  }
  float sum = 0;
  for (const float part : lost) sum += part;
  return sum;
}

void Matrix::place(Pool& pool) {
  if (!placed_) exec::place(pool, memory_);
  placed_ = true;
}

void Matrix::fill(Pool& pool, int64_t row0, int half, GgmlType type, const uint8_t* data, const int64_t* order,
                  int64_t start, int64_t count) {
  if (row0 < 0 || count > rows_ || row0 > rows_ - count || half < 0 || half > (gated_ ? 1 : 0))
    throw std::invalid_argument("rows outside the matrix");
  const Format natural = natural_format(type);
  const bool exact = format_.kind == Format::grouped && has_groups(type) && inputs_ % kGroup == 0 &&
                     natural.bits <= format_.bits && natural.group >= format_.group &&
                     natural.minima <= format_.minima;
  const int64_t bytes = row_bytes(type, inputs_);
  place(pool);
  std::vector<std::vector<float>> floats(exact ? 0 : pool.parts());
  exec::for_rows(pool, count, stride_ / kTileRows, kTileRows, [&](int part, int64_t begin, int64_t end) {
    float* const row = exact ? nullptr : (floats[part].resize(inputs_), floats[part].data());
    for (int64_t i = begin; i < end; ++i) {
      const uint8_t* source = data + (start + (order ? order[i] : i)) * bytes;
      uint8_t* tile = memory_.data() + tile_of(row0 + i, half) * stride_;
      const int lane = int((row0 + i) % kTileRows);
      if (exact) {
        pack_groups(tile, lane, type, source);
      } else {
        dequantize(type, source, inputs_, row);
        pack_floats(tile, lane, row);
      }
    }
  });
}

void Matrix::unpack(const Kernels& kernels, int64_t row, float* out) const {
  const int half = gated_ && row >= rows_ ? 1 : 0;
  const int64_t r = half ? row - rows_ : row;
  kernels.unpack_row(format_, memory_.data() + tile_of(r, half) * stride_, int(r % kTileRows), inputs_, out);
}

}  // namespace trimtab
