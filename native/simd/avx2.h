// Sixteen lanes as two 256-bit registers (AVX2, FMA, F16C). Same names and same results for integers as AVX-512.
#pragma once
#include <immintrin.h>
#include <cstdint>

namespace trimtab::avx2 {

constexpr int kMaxRows = 4;
constexpr int kManyRows = 4;

struct F32 { __m256 a, b; };
struct I32 { __m256i a, b; };
struct Bytes { __m256i a, b; };

#define TRIMTAB_PAIR(name, op) inline F32 name(F32 x, F32 y) { return {op(x.a, y.a), op(x.b, y.b)}; }
TRIMTAB_PAIR(add, _mm256_add_ps)
TRIMTAB_PAIR(sub, _mm256_sub_ps)
TRIMTAB_PAIR(mul, _mm256_mul_ps)
TRIMTAB_PAIR(div, _mm256_div_ps)
TRIMTAB_PAIR(max, _mm256_max_ps)
TRIMTAB_PAIR(min, _mm256_min_ps)
#undef TRIMTAB_PAIR

inline F32 zero_f() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline F32 set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline F32 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, F32 x) { _mm256_storeu_ps(p, x.a); _mm256_storeu_ps(p + 8, x.b); }
inline F32 abs(F32 x) {
  const __m256 mask = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  return {_mm256_and_ps(x.a, mask), _mm256_and_ps(x.b, mask)};
}
inline F32 fma(F32 x, F32 y, F32 z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
inline F32 round(F32 x) {
  constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(x.a, mode), _mm256_round_ps(x.b, mode)};
}
inline float sum(F32 x) {
  __m256 s = _mm256_add_ps(x.a, x.b);
  __m128 t = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
  t = _mm_add_ps(t, _mm_movehl_ps(t, t));
  return _mm_cvtss_f32(_mm_add_ss(t, _mm_movehdup_ps(t)));
}
inline bool any_above(F32 x, F32 y) {
  const __m256 a = _mm256_cmp_ps(x.a, y.a, _CMP_GT_OQ), b = _mm256_cmp_ps(x.b, y.b, _CMP_GT_OQ);
  return _mm256_movemask_ps(_mm256_or_ps(a, b)) != 0;
}
inline float largest(F32 x) {
  __m256 s = _mm256_max_ps(x.a, x.b);
  __m128 t = _mm_max_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
  t = _mm_max_ps(t, _mm_movehl_ps(t, t));
  return _mm_cvtss_f32(_mm_max_ss(t, _mm_movehdup_ps(t)));
}
inline F32 load_f16(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)),
          _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8)))};
}

inline I32 zero_i() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline I32 set(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline I32 add(I32 x, I32 y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
inline F32 to_float(I32 x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
inline I32 to_int(F32 x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
inline int32_t sum(I32 x) {
  __m256i s = _mm256_add_epi32(x.a, x.b);
  __m128i t = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
  t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0x4e));
  t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0xb1));
  return _mm_cvtsi128_si32(t);
}
inline void store_i8(int8_t* p, I32 x) {
  const __m128i low = _mm_packs_epi32(_mm256_castsi256_si128(x.a), _mm256_extracti128_si256(x.a, 1));
  const __m128i high = _mm_packs_epi32(_mm256_castsi256_si128(x.b), _mm256_extracti128_si256(x.b, 1));
  _mm_storeu_si128((__m128i*)p, _mm_packs_epi16(low, high));
}
// Round to nearest even; NaN stays NaN because its payload's top bit is set by the hardware that made it.
inline void store_bf16(uint16_t* p, F32 x) {
  auto rounded = [](__m256 v) {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    return _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  };
  const __m256i packed = _mm256_packus_epi32(rounded(x.a), rounded(x.b));
  _mm256_storeu_si256((__m256i*)p, _mm256_permute4x64_epi64(packed, 0xd8));
}
inline F32 load_bf16(const uint16_t* p) {
  auto wide = [](const uint16_t* q) {
    const __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)q));
    return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
  };
  return {wide(p), wide(p + 8)};
}
inline I32 load_i8(const int8_t* p) {
  return {_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)),
          _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)(p + 8)))};
}
// a x 2^n for n that keeps the result normal or zero; n below -126 gives zero.
inline F32 scale_by_power(F32 x, F32 n) {
  const I32 whole = to_int(n);
  const __m256i floor = _mm256_set1_epi32(-127), bias = _mm256_set1_epi32(127);
  auto power = [&](__m256i k) {
    k = _mm256_max_epi32(k, floor);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(k, bias), 23));
  };
  return {_mm256_mul_ps(x.a, power(whole.a)), _mm256_mul_ps(x.b, power(whole.b))};
}

inline Bytes load_bytes(const uint8_t* p) {
  return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)(p + 32))};
}
inline Bytes low_nibbles(Bytes x) {
  const __m256i mask = _mm256_set1_epi8(0x0f);
  return {_mm256_and_si256(x.a, mask), _mm256_and_si256(x.b, mask)};
}
inline Bytes high_nibbles(Bytes x) {
  return low_nibbles({_mm256_srli_epi16(x.a, 4), _mm256_srli_epi16(x.b, 4)});
}

// maddubs adds two products in 16 bits. Nibbles cannot overflow it (2 x 15 x 127); full bytes can, so they
// are multiplied as two nibbles.
template <bool kNibbles>
inline I32 dot(I32 acc, Bytes w, const int8_t* four) {
  int32_t bits;
  __builtin_memcpy(&bits, four, 4);
  const __m256i a = _mm256_set1_epi32(bits), ones = _mm256_set1_epi16(1);
  auto quad = [&](__m256i u) { return _mm256_madd_epi16(_mm256_maddubs_epi16(u, a), ones); };
  if constexpr (kNibbles) {
    return {_mm256_add_epi32(acc.a, quad(w.a)), _mm256_add_epi32(acc.b, quad(w.b))};
  } else {
    const Bytes low = low_nibbles(w), high = high_nibbles(w);
    auto both = [&](__m256i sum, __m256i l, __m256i h) {
      return _mm256_add_epi32(sum, _mm256_add_epi32(quad(l), _mm256_slli_epi32(quad(h), 4)));
    };
    return {both(acc.a, low.a, high.a), both(acc.b, low.b, high.b)};
  }
}

inline F32 bf16_even(Bytes x) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(x.a, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(x.b, 16))};
}
inline F32 bf16_odd(Bytes x) {
  const __m256i mask = _mm256_set1_epi32(int32_t(0xffff0000));
  return {_mm256_castsi256_ps(_mm256_and_si256(x.a, mask)), _mm256_castsi256_ps(_mm256_and_si256(x.b, mask))};
}
inline F32 dot_bf16(F32 acc, Bytes w, uint32_t pair) {
  const F32 even = set(__builtin_bit_cast(float, pair << 16));
  const F32 odd = set(__builtin_bit_cast(float, pair & 0xffff0000u));
  return fma(bf16_odd(w), odd, fma(bf16_even(w), even, acc));
}

}  // namespace trimtab::avx2
