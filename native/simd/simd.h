// One body, compiled once per instruction set: pulls the lanes of the set this file is compiled for into
// namespace `trimtab::TRIMTAB_ISA` and adds the functions that every set shares.
#pragma once
#if defined(TRIMTAB_ISA_avx512)
#include "simd/avx512.h"
#elif defined(TRIMTAB_ISA_avx2)
#include "simd/avx2.h"
#else
#include "simd/portable.h"
#endif

namespace trimtab::TRIMTAB_ISA {

constexpr float kInfinity = __builtin_inff();

// e^x by range reduction to |r| <= ln2 / 2 and a degree-6 polynomial; relative error below 2^-22. Inputs
// under -87 give zero or a subnormal's worth of nothing, which is what a masked score needs.
inline F32 exp(F32 x) {
  x = max(min(x, set(88.0f)), set(-110.0f));
  const F32 n = round(mul(x, set(1.44269504f)));
  F32 r = fma(n, set(-0.693145752f), x);
  r = fma(n, set(-1.42860677e-6f), r);
  F32 p = set(1.0f / 720);
  p = fma(p, r, set(1.0f / 120));
  p = fma(p, r, set(1.0f / 24));
  p = fma(p, r, set(1.0f / 6));
  p = fma(p, r, set(0.5f));
  p = fma(p, r, set(1.0f));
  p = fma(p, r, set(1.0f));
  return scale_by_power(p, n);
}

inline F32 silu(F32 x) { return div(x, add(set(1.0f), exp(sub(zero_f(), x)))); }

inline F32 tanh(F32 x) {
  const F32 e = exp(mul(x, set(2.0f)));
  return sub(set(1.0f), div(set(2.0f), add(e, set(1.0f))));
}

inline F32 gelu_tanh(F32 x) {
  const F32 inner = mul(set(0.7978845608f), fma(mul(mul(x, x), x), set(0.044715f), x));
  return mul(mul(set(0.5f), x), add(set(1.0f), tanh(inner)));
}

inline uint16_t to_bf16(float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x);
  if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t(bits >> 16 | 0x40);  // keep NaN a NaN
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace trimtab::TRIMTAB_ISA
