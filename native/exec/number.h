// Number types of the algorithms, and the small function objects that STREAM is made of; for processors and GPUs.
#pragma once
#include <cstdint>

#if defined(__CUDACC__)
#define TRIMTAB_BOTH __host__ __device__
#else
#define TRIMTAB_BOTH
#endif

#if !defined(TRIMTAB_ISA)
#define TRIMTAB_ISA plain
#endif

namespace trimtab::exec {

// How results go to memory: `streaming` past the caches, which spares reading the line first and is right for ranges
// that no cache holds.
enum class Store : uint8_t { plain, streaming };

struct Bf16 { uint16_t bits; };

// Functions are one for each instruction set that a file is compiled for: the linker must not keep one for all.
inline namespace TRIMTAB_ISA {

// The type that arithmetic on T is done in, there and back; rounding is to nearest even.
TRIMTAB_BOTH inline double widen(double x) { return x; }
TRIMTAB_BOTH inline float widen(float x) { return x; }
TRIMTAB_BOTH inline float widen(Bf16 x) {
  const uint32_t bits = uint32_t(x.bits) << 16;
  float out;
  __builtin_memcpy(&out, &bits, 4);
  return out;
}
template <class T> struct Narrow;
template <> struct Narrow<double> { TRIMTAB_BOTH static double of(double x) { return x; } };
template <> struct Narrow<float> { TRIMTAB_BOTH static float of(float x) { return x; } };
template <> struct Narrow<Bf16> {
  TRIMTAB_BOTH static Bf16 of(float x) {
    uint32_t bits;
    __builtin_memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return {uint16_t(bits >> 16 | 0x40)};  // keep NaN a NaN
    return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
  }
};
template <class T>
TRIMTAB_BOTH inline T narrow(decltype(widen(T{})) x) { return Narrow<T>::of(x); }

// Of one number, or of as many as a register holds.
struct Identity {
  template <class V> TRIMTAB_BOTH V operator()(V x) const { return x; }
};
template <class S>
struct Scaled {
  S s;
  template <class V> TRIMTAB_BOTH V operator()(V x) const { return x * s; }
};
struct Sum {
  template <class V> TRIMTAB_BOTH V operator()(V a, V b) const { return a + b; }
};
template <class S>
struct Triad {
  S s;
  template <class V> TRIMTAB_BOTH V operator()(V a, V b) const { return a + b * s; }
};

}  // namespace TRIMTAB_ISA
}  // namespace trimtab::exec
