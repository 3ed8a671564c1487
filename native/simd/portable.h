// Sixteen lanes as plain loops: any compiler, any processor (the vectoriser turns them into NEON on Arm).
#pragma once
#include <cmath>
#include <cstdint>

namespace trimtab::portable {

constexpr int kMaxRows = 4;
constexpr int kLanes = 16;

struct F32 { float v[kLanes]; };
struct I32 { int32_t v[kLanes]; };
struct Bytes { uint8_t v[64]; };

#define TRIMTAB_EACH(expression) \
  do { for (int i = 0; i < kLanes; ++i) { expression; } } while (0)

inline F32 set(float x) { F32 r; TRIMTAB_EACH(r.v[i] = x); return r; }
inline F32 zero_f() { return set(0.0f); }
inline F32 load(const float* p) { F32 r; TRIMTAB_EACH(r.v[i] = p[i]); return r; }
inline void store(float* p, F32 a) { TRIMTAB_EACH(p[i] = a.v[i]); }
inline F32 add(F32 a, F32 b) { TRIMTAB_EACH(a.v[i] += b.v[i]); return a; }
inline F32 sub(F32 a, F32 b) { TRIMTAB_EACH(a.v[i] -= b.v[i]); return a; }
inline F32 mul(F32 a, F32 b) { TRIMTAB_EACH(a.v[i] *= b.v[i]); return a; }
inline F32 div(F32 a, F32 b) { TRIMTAB_EACH(a.v[i] /= b.v[i]); return a; }
inline F32 max(F32 a, F32 b) { TRIMTAB_EACH(a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i]); return a; }
inline F32 min(F32 a, F32 b) { TRIMTAB_EACH(a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i]); return a; }
inline F32 abs(F32 a) { TRIMTAB_EACH(a.v[i] = __builtin_fabsf(a.v[i])); return a; }
inline F32 round(F32 a) { TRIMTAB_EACH(a.v[i] = __builtin_rintf(a.v[i])); return a; }
// Not fused: without an FMA unit a library call would be needed for every lane.
inline F32 fma(F32 a, F32 b, F32 c) { TRIMTAB_EACH(c.v[i] += a.v[i] * b.v[i]); return c; }
inline float sum(F32 a) {
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) a.v[i] += a.v[i + half];
  return a.v[0];
}
inline float largest(F32 a) {
  float m = a.v[0];
  TRIMTAB_EACH(m = a.v[i] > m ? a.v[i] : m);
  return m;
}
inline float half_to_float(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000) << 16, magnitude = h & 0x7fff;
  // Scaling by 2^112 re-biases the exponent and also makes subnormal halves exact.
  uint32_t bits = magnitude << 13;
  float value = __builtin_bit_cast(float, bits) * 0x1p112f;
  if (magnitude >= 0x7c00) value = __builtin_bit_cast(float, bits | 0x7f800000u);
  return __builtin_bit_cast(float, __builtin_bit_cast(uint32_t, value) | sign);
}
inline F32 load_f16(const uint16_t* p) { F32 r; TRIMTAB_EACH(r.v[i] = half_to_float(p[i])); return r; }

inline I32 set(int32_t x) { I32 r; TRIMTAB_EACH(r.v[i] = x); return r; }
inline I32 zero_i() { return set(int32_t(0)); }
inline I32 add(I32 a, I32 b) { TRIMTAB_EACH(a.v[i] += b.v[i]); return a; }
inline F32 to_float(I32 a) { F32 r; TRIMTAB_EACH(r.v[i] = float(a.v[i])); return r; }
inline I32 to_int(F32 a) { I32 r; TRIMTAB_EACH(r.v[i] = int32_t(__builtin_rintf(a.v[i]))); return r; }
inline int32_t sum(I32 a) { int32_t s = 0; TRIMTAB_EACH(s += a.v[i]); return s; }
inline void store_i8(int8_t* p, I32 a) { TRIMTAB_EACH(p[i] = int8_t(a.v[i])); }
inline void store_bf16(uint16_t* p, F32 a) {
  TRIMTAB_EACH(const uint32_t bits = __builtin_bit_cast(uint32_t, a.v[i]);
               p[i] = uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16));
}
inline I32 load_i8(const int8_t* p) { I32 r; TRIMTAB_EACH(r.v[i] = p[i]); return r; }
inline F32 scale_by_power(F32 a, I32 n) {
  TRIMTAB_EACH(const int32_t k = n.v[i] < -127 ? -127 : n.v[i];
               a.v[i] *= __builtin_bit_cast(float, uint32_t(k + 127) << 23));
  return a;
}

inline Bytes load_bytes(const uint8_t* p) { Bytes r; __builtin_memcpy(r.v, p, 64); return r; }
inline Bytes low_nibbles(Bytes a) { for (auto& x : a.v) x &= 0x0f; return a; }
inline Bytes high_nibbles(Bytes a) { for (auto& x : a.v) x >>= 4; return a; }

template <bool kNibbles>
inline I32 dot(I32 acc, Bytes w, const int8_t* a) {
  TRIMTAB_EACH(acc.v[i] += w.v[4 * i] * a[0] + w.v[4 * i + 1] * a[1] + w.v[4 * i + 2] * a[2] + w.v[4 * i + 3] * a[3]);
  return acc;
}

inline F32 bf16_even(Bytes a) {
  F32 r;
  TRIMTAB_EACH(r.v[i] = __builtin_bit_cast(float, uint32_t(a.v[4 * i] | a.v[4 * i + 1] << 8) << 16));
  return r;
}
inline F32 bf16_odd(Bytes a) {
  F32 r;
  TRIMTAB_EACH(r.v[i] = __builtin_bit_cast(float, uint32_t(a.v[4 * i + 2] | a.v[4 * i + 3] << 8) << 16));
  return r;
}
inline F32 dot_bf16(F32 acc, Bytes w, uint32_t pair) {
  const F32 even = set(__builtin_bit_cast(float, pair << 16));
  const F32 odd = set(__builtin_bit_cast(float, pair & 0xffff0000u));
  return fma(bf16_odd(w), odd, fma(bf16_even(w), even, acc));
}

#undef TRIMTAB_EACH
}  // namespace trimtab::portable
