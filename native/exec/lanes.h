// As many numbers as a register holds, in the compiler's own vector types; each instruction set has its own.
#pragma once
#include "exec/number.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif
namespace trimtab::exec {

inline namespace TRIMTAB_ISA {

#if defined(__AVX512F__)
constexpr int kLaneBytes = 64;
#elif defined(__AVX__)
constexpr int kLaneBytes = 32;
#else
constexpr int kLaneBytes = 16;
#endif

#if defined(__x86_64__)
constexpr bool kStreams = true;
#else
constexpr bool kStreams = false;  // no such store without the processor's own instructions
#endif

template <class T> struct Vector { typedef T type __attribute__((vector_size(kLaneBytes))); };

// Past the caches where the processor can; `p` lies at a multiple of the vector's size.
template <class T>
inline void stream(T* p, typename Vector<T>::type x) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 8) _mm512_stream_pd((double*)p, (__m512d)x);
  else _mm512_stream_ps((float*)p, (__m512)x);
#elif defined(__AVX__)
  if constexpr (sizeof(T) == 8) _mm256_stream_pd((double*)p, (__m256d)x);
  else _mm256_stream_ps((float*)p, (__m256)x);
#elif defined(__x86_64__)
  if constexpr (sizeof(T) == 8) _mm_stream_pd((double*)p, (__m128d)x);
  else _mm_stream_ps((float*)p, (__m128)x);
#else
  __builtin_memcpy(p, &x, sizeof x);
#endif
}

template <class T> struct Lanes;

template <class T>
struct RealLanes {
  using Wide = typename Vector<T>::type;
  static constexpr int count = kLaneBytes / int(sizeof(T));
  static Wide load(const T* p) {
    Wide x;
    __builtin_memcpy(&x, p, sizeof x);
    return x;
  }
  static Wide set(T x) { return x - Wide{}; }
  template <Store kStore>
  static void put(T* p, Wide x) {
    if constexpr (kStore == Store::streaming) stream(p, x);
    else __builtin_memcpy(p, &x, sizeof x);
  }
  static double total(Wide x) {
    double sum = 0;
    for (int i = 0; i < count; ++i) sum += double(x[i]);
    return sum;
  }
};
template <> struct Lanes<double> : RealLanes<double> {};
template <> struct Lanes<float> : RealLanes<float> {};

// A register of bf16 numbers as two of floats: its first half and its second.
struct Halves {
  Vector<float>::type first, second;
  friend Halves operator+(Halves a, Halves b) { return {a.first + b.first, a.second + b.second}; }
  friend Halves operator*(Halves a, float s) { return {a.first * s, a.second * s}; }
};
template <>
struct Lanes<Bf16> {
  using Wide = Halves;
  static constexpr int count = kLaneBytes / 2;
  typedef uint16_t Half __attribute__((vector_size(kLaneBytes / 2)));
  typedef uint32_t Bits __attribute__((vector_size(kLaneBytes)));

  static Vector<float>::type half(const Bf16* p) {
    Half x;
    __builtin_memcpy(&x, p, sizeof x);
    return (Vector<float>::type)(__builtin_convertvector(x, Bits) << 16);
  }
  static Wide load(const Bf16* p) { return {half(p), half(p + count / 2)}; }
  static Wide set(float x) { return {x - Vector<float>::type{}, x - Vector<float>::type{}}; }
  static Half round(Vector<float>::type x) {
#if defined(__AVX512BF16__)
    return (Half)_mm512_cvtneps_pbh((__m512)x);
#else
    const Bits bits = (Bits)x;
    return __builtin_convertvector((bits + 0x7fff + (bits >> 16 & 1)) >> 16, Half);
#endif
  }
  template <Store kStore>
  static void put(Bf16* p, Wide x) {
    const Half halves[2] = {round(x.first), round(x.second)};
    Vector<float>::type both;
    __builtin_memcpy(&both, halves, sizeof both);
    if constexpr (kStore == Store::streaming) stream((float*)p, both);
    else __builtin_memcpy(p, &both, sizeof both);
  }
  static double total(Wide x) { return Lanes<float>::total(x.first) + Lanes<float>::total(x.second); }
};

}  // namespace TRIMTAB_ISA
}  // namespace trimtab::exec
