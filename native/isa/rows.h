// Operations on one row: norm, addition, softcap, and reading a row back out of a packed matrix.
#pragma once
#include "layout.h"
#include "simd/simd.h"

namespace trimtab::TRIMTAB_ISA {

inline void norm_row(const float* x, const float* weight, float eps, int64_t width, float* out) {
  F32 squares[2] = {zero_f(), zero_f()};
  int64_t k = 0;
  for (; k + 32 <= width; k += 32) {
    squares[0] = fma(load(x + k), load(x + k), squares[0]);
    squares[1] = fma(load(x + k + 16), load(x + k + 16), squares[1]);
  }
  float total = sum(add(squares[0], squares[1]));
  for (int64_t i = k; i < width; ++i) total += x[i] * x[i];
  const float factor = 1.0f / __builtin_sqrtf(total / float(width) + eps);
  int64_t i = 0;
  for (; i + 16 <= width; i += 16) store(out + i, mul(mul(load(x + i), set(factor)), load(weight + i)));
  for (; i < width; ++i) out[i] = x[i] * factor * weight[i];
  for (; i < round_up(width, kGroup); ++i) out[i] = 0.0f;
}

inline void add_row(float* out, const float* a, const float* b, int64_t width) {
  int64_t i = 0;
  for (; i + 16 <= width; i += 16) store(out + i, add(load(a + i), load(b + i)));
  for (; i < width; ++i) out[i] = a[i] + b[i];
}

inline void softcap_row(float* x, int64_t width, float cap) {
  alignas(64) float tail[16];
  int64_t i = 0;
  for (; i + 16 <= width; i += 16) store(x + i, mul(tanh(div(load(x + i), set(cap))), set(cap)));
  if (i == width) return;
  for (int64_t j = 0; j < 16; ++j) tail[j] = i + j < width ? x[i + j] : 0.0f;
  store(tail, mul(tanh(div(load(tail), set(cap))), set(cap)));
  for (int64_t j = 0; i + j < width; ++j) x[i + j] = tail[j];
}

inline float half(uint16_t bits) {
  alignas(64) uint16_t all[16] = {bits};
  alignas(64) float values[16];
  store(values, load_f16(all));
  return values[0];
}

inline void unpack_row(Format f, const uint8_t* tile, int lane, int64_t inputs, float* out) {
  if (f.kind == Format::bf16) {
    const uint16_t* pairs = (const uint16_t*)tile;
    for (int64_t k = 0; k < inputs; ++k)
      out[k] = __builtin_bit_cast(float, uint32_t(pairs[k / 2 * 32 + lane * 2 + k % 2]) << 16);
    return;
  }
  if (f.kind == Format::int8) {
    float scale;
    __builtin_memcpy(&scale, tile + round_up(inputs, kGroup) * kTileRows + 4 * lane, 4);
    for (int64_t k = 0; k < inputs; ++k) out[k] = float(tile[k / 4 * 64 + lane * 4 + k % 4] - 128) * scale;
    return;
  }
  const int halves = kGroup / f.group;
  const int offset = f.bits == 8 ? 128 : 0;  // eight bits are read as signed numbers
  const F32 zero = set(float(offset - f.zero_point()));
  for (int64_t k = 0; k < inputs; k += kGroup, tile += f.step_bytes()) {
    const uint16_t* scales = (const uint16_t*)(tile + f.bits * 64);
    uint8_t bytes[kGroup];
    for (int line = 0; line < f.bits; ++line) __builtin_memcpy(bytes + 4 * line, tile + 64 * line + 4 * lane, 4);
    int8_t q[kGroup];
    for (int i = 0; i < kGroup; ++i)
      q[i] = int8_t(f.bits == 8 ? bytes[i] ^ 0x80 : i < 16 ? bytes[i] & 15 : bytes[i - 16] >> 4);
    alignas(64) float values[kGroup];
    for (int i = 0; i < kGroup; i += 16) {
      const int h = halves == 2 ? i / 16 : 0;
      const F32 level = add(to_float(load_i8(q + i)), zero), scale = set(half(scales[h * kTileRows + lane]));
      store(values + i, f.minima ? fma(level, scale, set(half(scales[(halves + h) * kTileRows + lane]))) : mul(level, scale));
    }
    if (k + kGroup <= inputs) {
      store(out + k, load(values));
      store(out + k + 16, load(values + 16));
    } else {
      for (int i = 0; k + i < inputs; ++i) out[k + i] = values[i];
    }
  }
}

}  // namespace trimtab::TRIMTAB_ISA
