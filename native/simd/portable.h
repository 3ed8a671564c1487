// Sixteen lanes in the compiler's own vector types: any processor, lowered to SSE2 or NEON registers.
#pragma once
#include <cstdint>

namespace trimtab::portable {

constexpr int kMaxRows = 2;
constexpr int kManyRows = 2;
constexpr int kLanes = 16;

typedef float F16 __attribute__((vector_size(64)));
typedef int32_t I16 __attribute__((vector_size(64)));
typedef uint32_t U16 __attribute__((vector_size(64)));

struct F32 { F16 v; };
struct I32 { I16 v; };
struct Bytes { U16 v; };  // 16 lanes of 4 bytes, little-endian

inline F32 set(float x) { return {x - F16{}}; }
inline F32 zero_f() { return {F16{}}; }
inline F32 load(const float* p) { F32 r; __builtin_memcpy(&r.v, p, 64); return r; }
inline void store(float* p, F32 a) { __builtin_memcpy(p, &a.v, 64); }
inline F32 add(F32 a, F32 b) { return {a.v + b.v}; }
inline F32 sub(F32 a, F32 b) { return {a.v - b.v}; }
inline F32 mul(F32 a, F32 b) { return {a.v * b.v}; }
inline F32 div(F32 a, F32 b) { return {a.v / b.v}; }
inline F32 max(F32 a, F32 b) { return {a.v > b.v ? a.v : b.v}; }
inline F32 min(F32 a, F32 b) { return {a.v < b.v ? a.v : b.v}; }
inline F32 abs(F32 a) { return {a.v < 0 ? -a.v : a.v}; }
// Not fused: without an FMA unit a library call would be needed for every lane.
inline F32 fma(F32 a, F32 b, F32 c) { return {c.v + a.v * b.v}; }
// To nearest even, for |a| < 2^22, which every caller guarantees: adding 1.5 x 2^23 drops the fraction.
inline F32 round(F32 a) {
  const F16 magic = set(12582912.0f).v;
  return {(a.v + magic) - magic};
}
inline float sum(F32 a) {
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) a.v[i] += a.v[i + half];
  return a.v[0];
}
inline float largest(F32 a) {
  float m = a.v[0];
  for (int i = 1; i < kLanes; ++i) m = a.v[i] > m ? a.v[i] : m;
  return m;
}
inline bool any_above(F32 a, F32 b) {
  bool any = false;
  for (int i = 0; i < kLanes; ++i) any |= a.v[i] > b.v[i];
  return any;
}
inline F32 load_f16(const uint16_t* p) {
  F32 r;
  for (int i = 0; i < kLanes; ++i) {
    // Scaling by 2^112 re-biases the exponent and also makes subnormal halves exact.
    const uint32_t magnitude = p[i] & 0x7fff, sign = uint32_t(p[i] & 0x8000) << 16;
    float value = __builtin_bit_cast(float, magnitude << 13) * 0x1p112f;
    if (magnitude >= 0x7c00) value = __builtin_bit_cast(float, magnitude << 13 | 0x7f800000u);
    r.v[i] = __builtin_bit_cast(float, __builtin_bit_cast(uint32_t, value) | sign);
  }
  return r;
}

inline I32 set(int32_t x) { return {x - I16{}}; }
inline I32 zero_i() { return {I16{}}; }
inline I32 add(I32 a, I32 b) { return {a.v + b.v}; }
inline F32 to_float(I32 a) { return {__builtin_convertvector(a.v, F16)}; }
inline I32 to_int(F32 a) { return {__builtin_convertvector(round(a).v, I16)}; }
inline int32_t sum(I32 a) {
  int32_t s = 0;
  for (int i = 0; i < kLanes; ++i) s += a.v[i];
  return s;
}
inline void store_i8(int8_t* p, I32 a) { for (int i = 0; i < kLanes; ++i) p[i] = int8_t(a.v[i]); }
inline F32 load_bf16(const uint16_t* p) {
  U16 bits;
  for (int i = 0; i < kLanes; ++i) bits[i] = uint32_t(p[i]) << 16;
  return {(F16)bits};
}
inline I32 load_i8(const int8_t* p) { I32 r; for (int i = 0; i < kLanes; ++i) r.v[i] = p[i]; return r; }
inline void store_bf16(uint16_t* p, F32 a) {
  const U16 bits = (U16)a.v;
  const U16 rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  for (int i = 0; i < kLanes; ++i) p[i] = uint16_t(rounded[i]);
}
// a x 2^n for n that keeps the result normal or zero; n below -126 gives zero.
inline F32 scale_by_power(F32 a, F32 n) {
  const I16 whole = to_int(n).v;
  const I16 k = whole < -127 ? -127 - I16{} : whole;
  return {a.v * (F16)((k + 127) << 23)};
}

inline Bytes load_bytes(const uint8_t* p) { Bytes r; __builtin_memcpy(&r.v, p, 64); return r; }
inline Bytes low_nibbles(Bytes a) { return {a.v & 0x0f0f0f0fu}; }
inline Bytes high_nibbles(Bytes a) { return {a.v >> 4 & 0x0f0f0f0fu}; }

template <bool kNibbles>
inline I32 dot(I32 acc, Bytes w, const int8_t* a) {
  const I16 sum = (I16)(w.v & 0xff) * int32_t(a[0]) + (I16)(w.v >> 8 & 0xff) * int32_t(a[1]) +
                  (I16)(w.v >> 16 & 0xff) * int32_t(a[2]) + (I16)(w.v >> 24) * int32_t(a[3]);
  return {acc.v + sum};
}

inline F32 bf16_even(Bytes a) { return {(F16)(a.v << 16)}; }
inline F32 bf16_odd(Bytes a) { return {(F16)(a.v & 0xffff0000u)}; }
inline F32 dot_bf16(F32 acc, Bytes w, uint32_t pair) {
  const F32 even = set(__builtin_bit_cast(float, pair << 16));
  const F32 odd = set(__builtin_bit_cast(float, pair & 0xffff0000u));
  return fma(bf16_odd(w), odd, fma(bf16_even(w), even, acc));
}

}  // namespace trimtab::portable
