// The sampler's passes over a whole row of logits, written once in 16 virtual lanes and compiled for vectors
// of N real ones. Sums are kept by lane and no multiply-add is fused, so every N gives the same bits.
#pragma once
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "sampler.h"

namespace trimtab::sampler {

#define TRIMTAB_INLINE inline __attribute__((always_inline))

constexpr int kLanes = 16;
constexpr int kSteps = 64;                // vectors of a block
constexpr int kBlock = kLanes * kSteps;   // logits of a block
constexpr int kLevels = 4;
constexpr float kInfinity = __builtin_inff();

// Distances below the highest logit, in units of the temperature, whose share of the mass is measured.
constexpr float kLevelDepth[kLevels] = {1.5f, 4.0f, 7.0f, 11.0f};

struct Masses {
  double total;            // of exp((x - highest) / temperature) over the row
  double above[kLevels];   // of the logits >= level
};

inline int64_t num_blocks(int64_t n) { return (n + kBlock - 1) / kBlock; }

template <int N>
struct Vector {
  typedef float Float __attribute__((vector_size(N * 4)));
  typedef int32_t Int __attribute__((vector_size(N * 4)));
};
template <>
struct Vector<1> {
  typedef float Float;
  typedef int32_t Int;
};

// e^z for z <= 0 by 2^n e^r, |r| <= ln2 / 2; relative error below 2^-22. Below -87, and for NaN, exactly 0.
template <int N>
TRIMTAB_INLINE typename Vector<N>::Float exp_negative(typename Vector<N>::Float z) {
  using Float = typename Vector<N>::Float;
  using Int = typename Vector<N>::Int;
  const Float zero = {};
  const auto live = z > -87.0f;
  z = live ? z : zero;
  // Added to 1.5 * 2^23, a number rounds to an integer in the low bits; 127 more and it is an exponent.
  const Float shifted = z * 1.44269502f + 12583039.0f;
  const Float n = shifted - 12583039.0f;
  const Float r = (z - n * 0.693115234f) - n * 3.19461833e-5f;
  Float p = r * 1.38145988e-3f + 8.36871658e-3f;  // least maximal error, fitted for |r| <= ln2 / 2
  p = p * r + 4.16683890e-2f;
  p = p * r + 0.166665211f;
  p = p * r + 0.49999994f;
  p = p * (r * r) + r + 1.0f;
  const Float power = __builtin_bit_cast(Float, __builtin_bit_cast(Int, shifted) << 23);
  const Float value = p * power;
  return live ? value : zero;
}

template <int N>
TRIMTAB_INLINE void load(const float* x, typename Vector<N>::Float (&v)[kLanes / N]) {
  for (int p = 0; p < kLanes / N; ++p) std::memcpy(&v[p], x + p * N, sizeof v[p]);
}

// Calls body(block, pointer to 16 logits) in order; a last short vector is padded with -inf.
template <class Step, class Flush>
TRIMTAB_INLINE void each_vector(const float* x, int64_t n, Step step, Flush flush) {
  for (int64_t begin = 0, block = 0; begin < n; begin += kBlock, ++block) {
    const int64_t end = begin + kBlock < n ? begin + kBlock : n;
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) step(x + i);
    if (i < end) {
      float tail[kLanes];
      for (int lane = 0; lane < kLanes; ++lane) tail[lane] = i + lane < end ? x[i + lane] : -kInfinity;
      step(tail);
    }
    flush(block);
  }
}

// Highest logit of each lane of each block into `lanes` (num_blocks * 16); NaN is passed over.
template <int N>
TRIMTAB_INLINE void lane_maxima(const float* x, int64_t n, float* lanes) {
  using Float = typename Vector<N>::Float;
  constexpr int parts = kLanes / N;
  const Float lowest = Float{} - kInfinity;
  Float best[parts];
  for (auto& b : best) b = lowest;
  each_vector(
      x, n,
      [&](const float* at) __attribute__((always_inline)) {
        Float v[parts];
        load<N>(at, v);
        for (int p = 0; p < parts; ++p) best[p] = v[p] > best[p] ? v[p] : best[p];
      },
      [&](int64_t block) __attribute__((always_inline)) {
        std::memcpy(lanes + block * kLanes, best, sizeof best);
        for (auto& b : best) b = lowest;
      });
}

// Mass of exp((x - highest) * inverse) in all and, when asked, above each level.
template <int N, bool Levels>
TRIMTAB_INLINE Masses masses(const float* x, int64_t n, float highest, float inverse, const float* levels) {
  using Float = typename Vector<N>::Float;
  constexpr int parts = kLanes / N;
  constexpr int sums = Levels ? kLevels + 1 : 1;
  Float sum[sums][parts] = {};
  double wide[sums][kLanes] = {};  // blocks are added in double, so that errors do not grow with the vocabulary
  each_vector(
      x, n,
      [&](const float* at) __attribute__((always_inline)) {
        Float v[parts];
        load<N>(at, v);
        for (int p = 0; p < parts; ++p) {
          const Float weight = exp_negative<N>((v[p] - highest) * inverse);
          sum[0][p] += weight;
          if constexpr (Levels) {
            for (int k = 0; k < kLevels; ++k) sum[k + 1][p] += v[p] >= levels[k] ? weight : Float{};
          }
        }
      },
      [&](int64_t) __attribute__((always_inline)) {
        for (int k = 0; k < sums; ++k) {
          float lane[kLanes];
          std::memcpy(lane, sum[k], sizeof lane);
          for (int i = 0; i < kLanes; ++i) wide[k][i] += lane[i];
          for (auto& s : sum[k]) s = Float{};
        }
      });
  Masses out = {};
  for (int i = 0; i < kLanes; ++i) {
    out.total += wide[0][i];
    if constexpr (Levels) {
      for (int k = 0; k < kLevels; ++k) out.above[k] += wide[k + 1][i];
    }
  }
  return out;
}

// Copies the row with -inf where the mask has no bit.
TRIMTAB_INLINE void masked_copy(const float* x, int64_t n, const uint32_t* mask, float* out) {
  for (int64_t i = 0; i < n; i += 32) {
    const uint32_t word = mask[i / 32];
    const int count = n - i < 32 ? int(n - i) : 32;
    if (count == 32) {
      for (int b = 0; b < 32; ++b) out[i + b] = word >> b & 1 ? x[i + b] : -kInfinity;
    } else {
      for (int b = 0; b < count; ++b) out[i + b] = word >> b & 1 ? x[i + b] : -kInfinity;
    }
  }
}

struct Passes : SamplerVariant {
  void (*lane_maxima)(const float* x, int64_t n, float* lanes);
  double (*total)(const float* x, int64_t n, float highest, float inverse);
  Masses (*masses)(const float* x, int64_t n, float highest, float inverse, const float* levels);
  void (*masked_copy)(const float* x, int64_t n, const uint32_t* mask, float* out);
};

// Compiles the passes for one instruction set: TARGET is its attribute, N its vector's width in floats.
#define TRIMTAB_SAMPLER_PASSES(NAME, N, TARGET)                                                                \
  TARGET void lane_maxima_##NAME(const float* x, int64_t n, float* lanes) { lane_maxima<N>(x, n, lanes); }     \
  TARGET double total_##NAME(const float* x, int64_t n, float highest, float inverse) {                        \
    return masses<N, false>(x, n, highest, inverse, nullptr).total;                                            \
  }                                                                                                            \
  TARGET Masses masses_##NAME(const float* x, int64_t n, float highest, float inverse, const float* levels) {  \
    return masses<N, true>(x, n, highest, inverse, levels);                                                    \
  }                                                                                                            \
  TARGET void masked_copy_##NAME(const float* x, int64_t n, const uint32_t* mask, float* out) {                \
    masked_copy(x, n, mask, out);                                                                              \
  }                                                                                                            \
  constexpr Passes NAME##_passes = {{#NAME}, lane_maxima_##NAME, total_##NAME, masses_##NAME, masked_copy_##NAME};

}  // namespace trimtab::sampler
