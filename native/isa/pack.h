// Activations from plain float rows into the forms that the multiplies read (see layout.h).
#pragma once
#include "layout.h"
#include "simd/simd.h"

namespace trimtab::TRIMTAB_ISA {

// 32 values of one row into group `g` of its block. For every form but `token`, whose scale spans the row.
inline void pack_group(const float* x, Form form, int row, int rows, uint8_t* block, int64_t g) {
  if (form.kind == Form::grouped) {
    const F32 a = load(x), b = load(x + 16);
    const float peak = largest(max(abs(a), abs(b)));
    const float scale = peak / 127.0f;
    const F32 inverse = set(peak > 0 ? 127.0f / peak : 0.0f);
    const I32 qa = to_int(mul(a, inverse)), qb = to_int(mul(b, inverse));
    uint8_t* step = block + g * form.step_bytes(rows);
    int8_t* q = (int8_t*)step + row * kGroup;
    store_i8(q, qa);
    store_i8(q + 16, qb);
    float* scales = (float*)(step + rows * kGroup);
    scales[row] = scale;
    float* corrections = scales + rows;
    auto correct = [&](float* to, int32_t sum) {
      const int32_t fixed = -int32_t(form.zero_point) * sum;
      const float value = form.zero_point ? __builtin_bit_cast(float, fixed) : scale * float(sum);
      __builtin_memcpy(to, &value, 4);
    };
    if (form.group == kGroup) {
      correct(corrections + row, sum(add(qa, qb)));
    } else {
      correct(corrections + row, sum(qa));
      correct(corrections + rows + row, sum(qb));
    }
  } else if (form.kind == Form::wide) {
    float* to = (float*)block + g * kGroup * rows + row;
    for (int k = 0; k < kGroup; ++k) to[k * rows] = x[k];
  } else {  // half
    uint16_t* to = (uint16_t*)block + g * kGroup * rows + 2 * row;
    for (int k = 0; k < kGroup; k += 2) {
      to[k * rows] = to_bf16(x[k]);
      to[k * rows + 1] = to_bf16(x[k + 1]);
    }
  }
}

inline void pack_token(const float* x, int64_t inputs, int row, int rows, uint8_t* block) {
  F32 peaks = zero_f();
  int64_t k = 0;
  for (; k + 16 <= inputs; k += 16) peaks = max(peaks, abs(load(x + k)));
  float peak = largest(peaks);
  for (; k < inputs; ++k) peak = __builtin_fabsf(x[k]) > peak ? __builtin_fabsf(x[k]) : peak;
  const F32 inverse = set(peak > 0 ? 127.0f / peak : 0.0f);
  const int64_t padded = round_up(inputs, kGroup);
  I32 sums = zero_i();
  for (k = 0; k < padded; k += 16) {
    alignas(64) float part[16];
    int8_t q[16];
    if (k + 16 <= inputs) {
      store(part, load(x + k));
    } else {
      for (int i = 0; i < 16; ++i) part[i] = k + i < inputs ? x[k + i] : 0.0f;
    }
    const I32 rounded = to_int(mul(load(part), inverse));
    sums = add(sums, rounded);
    store_i8(q, rounded);
    for (int i = 0; i < 16; i += 4) __builtin_memcpy(block + ((k + i) / 4 * rows + row) * 4, q + i, 4);
  }
  float* tail = (float*)(block + padded * rows);
  tail[row] = peak / 127.0f;
  const int32_t correction = -128 * sum(sums);
  __builtin_memcpy(tail + rows + row, &correction, 4);
}

inline void pack_row(const float* x, int64_t inputs, Form form, int row, int block_rows, uint8_t* packed) {
  uint8_t* block = packed + row / block_rows * form.block_bytes(inputs, block_rows);
  row %= block_rows;
  if (form.kind == Form::token) return pack_token(x, inputs, row, block_rows, block);
  int64_t g = 0;
  for (; (g + 1) * kGroup <= inputs; ++g) pack_group(x + g * kGroup, form, row, block_rows, block, g);
  if (g * kGroup < inputs) {
    alignas(64) float part[kGroup];
    for (int i = 0; i < kGroup; ++i) part[i] = g * kGroup + i < inputs ? x[g * kGroup + i] : 0.0f;
    pack_group(part, form, row, block_rows, block, g);
  }
}

}  // namespace trimtab::TRIMTAB_ISA
