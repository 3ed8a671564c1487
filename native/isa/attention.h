// Rotary embedding with the KV write, and causal attention over pages.
//
// Positions are visited in blocks of 64 aligned to position 0, whatever the batch looks like, and a block
// that a query may not see changes nothing for it: a row's result does not depend on its neighbours.
#pragma once
#include "kernels.h"
#include "simd/simd.h"

namespace trimtab::TRIMTAB_ISA {

constexpr int kBlockPages = 4;
constexpr int kBlockTokens = kBlockPages * kPageTokens;
constexpr int kMaxHeadDim = 256;

inline float* floats(uint8_t* p) { return (float*)p; }

inline int64_t kv_offset(const KvLayout& kv, int layer, int kv_head, int32_t page) {
  return page * kv.page_bytes() + (int64_t(layer) * kv.heads + kv_head) * kv.head_bytes();
}

// ---- rotary embedding and KV write -----------------------------------------------------------------------

inline void head_norm(float* x, const float* weight, float eps, int dim) {
  F32 squares = zero_f();
  for (int d = 0; d < dim; d += 16) squares = fma(load(x + d), load(x + d), squares);
  const F32 factor = set(1.0f / __builtin_sqrtf(sum(squares) / float(dim) + eps));
  for (int d = 0; d < dim; d += 16) store(x + d, mul(mul(load(x + d), factor), load(weight + d)));
}

// Rotates pairs (i, i + half) of the first `dim` values; angles hold cos[half], sin[half].
inline void rotate(float* x, const float* angles, int dim) {
  const int half = dim / 2;
  int i = 0;
  for (; i + 16 <= half; i += 16) {
    const F32 c = load(angles + i), s = load(angles + half + i);
    const F32 a = load(x + i), b = load(x + half + i);
    store(x + i, sub(mul(a, c), mul(b, s)));
    store(x + half + i, add(mul(b, c), mul(a, s)));
  }
  for (; i < half; ++i) {
    const float c = angles[i], s = angles[half + i], a = x[i], b = x[half + i];
    x[i] = a * c - b * s;
    x[half + i] = b * c + a * s;
  }
}

inline void write_int8(const float* x, int dim, int8_t* to, int step, int line, float* scale) {
  F32 peaks = zero_f();
  for (int d = 0; d < dim; d += 16) peaks = max(peaks, abs(load(x + d)));
  const float peak = largest(peaks);
  const F32 inverse = set(peak > 0 ? 127.0f / peak : 0.0f);
  *scale = peak / 127.0f;
  for (int d = 0; d < dim; d += 16) {
    int8_t q[16];
    store_i8(q, to_int(mul(load(x + d), inverse)));
    for (int i = 0; i < 16; i += line) __builtin_memcpy(to + (d + i) / line * step, q + i, line);
  }
}

inline void rope_store(const RopeStore& m, int row, int kv_head, int32_t page, int slot) {
  const int dim = m.kv.head_dim, group = m.heads / m.kv.heads;
  const float* in = m.qkv + row * m.ld;
  const float* angles = m.angles + int64_t(row) * m.rope_dim;
  for (int h = kv_head * group; h < (kv_head + 1) * group; ++h) {
    float* q = m.q + row * m.q_ld + int64_t(h) * dim;
    for (int d = 0; d < dim; d += 16) store(q + d, load(in + int64_t(h) * dim + d));
    if (m.q_norm) head_norm(q, m.q_norm, m.eps, dim);
    rotate(q, angles, m.rope_dim);
  }
  alignas(64) float key[kMaxHeadDim];
  const float* k = in + int64_t(m.heads + kv_head) * dim;
  const float* value = in + int64_t(m.heads + m.kv.heads + kv_head) * dim;
  for (int d = 0; d < dim; d += 16) store(key + d, load(k + d));
  if (m.k_norm) head_norm(key, m.k_norm, m.eps, dim);
  rotate(key, angles, m.rope_dim);

  uint8_t* base = m.arena + kv_offset(m.kv, m.layer, kv_head, page);
  if (m.kv.kind == KvLayout::f32) {
    float* keys = floats(base);
    float* values = keys + dim * kPageTokens;
    for (int d = 0; d < dim; ++d) keys[d * kPageTokens + slot] = key[d];
    __builtin_memcpy(values + slot * dim, value, dim * 4);
  } else if (m.kv.kind == KvLayout::bf16) {
    // Two bytes at a time into lines that 16 positions share: convert first, then scatter.
    alignas(64) uint16_t narrow[2][kMaxHeadDim];
    for (int d = 0; d < dim; d += 16) {
      store_bf16(narrow[0] + d, load(key + d));
      store_bf16(narrow[1] + d, load(value + d));
    }
    uint16_t* keys = (uint16_t*)base + 2 * slot;
    uint16_t* values = (uint16_t*)base + dim * kPageTokens + slot / 2 * dim * 2 + slot % 2;
    for (int d = 0; d < dim; d += 2) __builtin_memcpy(keys + d * kPageTokens, narrow[0] + d, 4);
    for (int d = 0; d < dim; ++d) values[2 * d] = narrow[1][d];
  } else {
    int8_t* keys = (int8_t*)base;
    int8_t* values = keys + dim * kPageTokens;
    float* scales = floats(base + 2 * dim * kPageTokens);
    write_int8(key, dim, keys + 4 * slot, 4 * kPageTokens, 4, scales + slot);
    // The key side of the dot product is unsigned: store it with an offset of 128.
    for (int d = 0; d < dim; d += 4)
      for (int i = 0; i < 4; ++i) keys[d * kPageTokens + 4 * slot + i] ^= int8_t(0x80);
    write_int8(value, dim, values + slot * dim, 16, 16, scales + kPageTokens + slot);
  }
}

// ---- attention ---------------------------------------------------------------------------------------------

// Queries of a unit in the order the score loop broadcasts them, and its running softmax.
template <int R>
struct Queries {
  alignas(64) uint8_t q[R][kMaxHeadDim * 4];        // in the type that the keys are multiplied with
  float scale[R];
  int32_t correction[R];
  alignas(64) float scores[R][kBlockTokens];
  alignas(64) uint32_t pairs[R][kBlockTokens / 2];  // probabilities as bf16 pairs
  alignas(64) float weights[R][kBlockTokens];       // probabilities as float
  alignas(64) float out[R][kMaxHeadDim];
  alignas(64) float totals[R][16];
  float peak[R];
};

template <int R>
inline void load_query(Queries<R>& s, const Attend& m, const float* q, int r) {
  const int dim = m.kv.head_dim;
  s.scale[r] = m.scale;
  if (m.kv.kind == KvLayout::f32) {
    __builtin_memcpy(s.q[r], q, dim * 4);
  } else if (m.kv.kind == KvLayout::bf16) {
    for (int d = 0; d < dim; d += 16) store_bf16((uint16_t*)s.q[r] + d, load(q + d));
  } else {
    float step;
    int8_t* to = (int8_t*)s.q[r];
    write_int8(q, dim, to, 16, 16, &step);
    I32 total = zero_i();
    for (int d = 0; d < dim; d += 16) total = add(total, load_i8(to + d));
    s.correction[r] = -128 * sum(total);
    s.scale[r] = step * m.scale;
  }
  for (int d = 0; d < dim; d += 16) store(s.out[r] + d, zero_f());
  s.peak[r] = -kInfinity;
  store(s.totals[r], zero_f());
}

// Scores of R queries against T pages, before the scale of the query.
template <int R, int T>
inline void score_pages(Queries<R>& s, const KvLayout& kv, const uint8_t* const* pages, int first) {
  const int dim = kv.head_dim;
  F32 acc[T][R];
  if (kv.kind == KvLayout::bf16) {
    for (int t = 0; t < T; ++t)
      for (int r = 0; r < R; ++r) acc[t][r] = zero_f();
    for (int d = 0; d < dim / 2; ++d) {
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) {
        const Bytes k = load_bytes(pages[first + t] + d * 64);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) acc[t][r] = dot_bf16(acc[t][r], k, ((const uint32_t*)s.q[r])[d]);
      }
    }
  } else if (kv.kind == KvLayout::int8) {
    I32 sums[T][R];
    for (int t = 0; t < T; ++t)
      for (int r = 0; r < R; ++r) sums[t][r] = set(s.correction[r]);
    for (int d = 0; d < dim / 4; ++d) {
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) {
        const Bytes k = load_bytes(pages[first + t] + d * 64);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) sums[t][r] = dot<false>(sums[t][r], k, (const int8_t*)s.q[r] + 4 * d);
      }
    }
    for (int t = 0; t < T; ++t) {
      const F32 step = load((const float*)(pages[first + t] + 2 * dim * kPageTokens));
      for (int r = 0; r < R; ++r) acc[t][r] = mul(to_float(sums[t][r]), step);
    }
  } else {
    for (int t = 0; t < T; ++t)
      for (int r = 0; r < R; ++r) acc[t][r] = zero_f();
    for (int d = 0; d < dim; ++d)
      for (int t = 0; t < T; ++t) {
        const F32 k = load((const float*)pages[first + t] + d * kPageTokens);
        for (int r = 0; r < R; ++r) acc[t][r] = fma(k, set(((const float*)s.q[r])[d]), acc[t][r]);
      }
  }
  for (int t = 0; t < T; ++t)
    for (int r = 0; r < R; ++r) store(s.scores[r] + (first + t) * kPageTokens, acc[t][r]);
}

// out[r] += probabilities x values of one page's positions, 16 dimensions at a time.
template <int R>
inline void add_values(Queries<R>& s, const KvLayout& kv, const uint8_t* const* pages, int count) {
  const int dim = kv.head_dim;
  const int64_t key_bytes = int64_t(dim) * kPageTokens * (kv.kind == KvLayout::f32 ? 4 : kv.kind == KvLayout::bf16 ? 2 : 1);
  auto strip = [&]<int V>(int d) {  // V x 16 dimensions from d
    F32 acc[V][R];
    for (int v = 0; v < V; ++v)
      for (int r = 0; r < R; ++r) acc[v][r] = load(s.out[r] + d + 16 * v);
    for (int p = 0; p < count; ++p) {
      const uint8_t* values = pages[p] + key_bytes;
      if (kv.kind == KvLayout::bf16) {
        for (int t = 0; t < kPageTokens / 2; ++t)
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) {
            const Bytes pair = load_bytes(values + (int64_t(t) * dim + d + 16 * v) * 4);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) acc[v][r] = dot_bf16(acc[v][r], pair, s.pairs[r][p * 8 + t]);
          }
      } else {
        for (int t = 0; t < kPageTokens; ++t)
          for (int v = 0; v < V; ++v) {
            const int64_t at = int64_t(t) * dim + d + 16 * v;
            const F32 x = kv.kind == KvLayout::f32 ? load((const float*)values + at)
                                                   : to_float(load_i8((const int8_t*)values + at));
            for (int r = 0; r < R; ++r) acc[v][r] = fma(x, set(s.weights[r][p * kPageTokens + t]), acc[v][r]);
          }
      }
    }
    for (int v = 0; v < V; ++v)
      for (int r = 0; r < R; ++r) store(s.out[r] + d + 16 * v, acc[v][r]);
  };
  constexpr int kStrips = R <= 3 && kMaxRows > 4 ? 4 : 2;
  int d = 0;
  for (; d + 16 * kStrips <= dim; d += 16 * kStrips) strip.template operator()<kStrips>(d);
  for (; d < dim; d += 16) strip.template operator()<1>(d);
}

// Scores of query r as the softmax takes them, where the scale alone does not make them so.
template <int R>
inline void prepare(Queries<R>& s, const Attend& m, int tokens, int r, int base, int low, int high) {
  float* scores = s.scores[r];
  const F32 scale = set(s.scale[r]);
  for (int t = 0; t < tokens; t += 16) {
    F32 x = mul(load(scores + t), scale);
    if (m.softcap > 0) x = mul(tanh(div(x, set(m.softcap))), set(m.softcap));
    store(scores + t, x);
    if (base + t < low || base + t + 15 > high)
      for (int i = t; i < t + 16; ++i)
        if (base + i < low || base + i > high) scores[i] = -kInfinity;
  }
}

// Folds a block of scores into the running softmax of query r; positions outside [low, high] are masked.
template <int R>
inline void soften(Queries<R>& s, const Attend& m, const uint8_t* const* pages, int count, int r, int base,
                   int low, int high) {
  const float* scores = s.scores[r];
  const int tokens = count * kPageTokens;
  F32 scale = set(s.scale[r]);
  if (m.softcap > 0 || base < low || base + tokens - 1 > high) {
    prepare(s, m, tokens, r, base, low, high);
    scale = set(1.0f);
  }
  F32 peaks = load(scores);
  for (int t = 16; t < tokens; t += 16) peaks = max(peaks, load(scores + t));
  peaks = mul(peaks, scale);
  if (any_above(peaks, set(s.peak[r]))) {
    const float peak = largest(peaks);
    alignas(64) float factor[16];
    store(factor, exp(set(s.peak[r] - peak)));
    const F32 shrink = set(factor[0]);
    store(s.totals[r], mul(load(s.totals[r]), shrink));
    for (int d = 0; d < m.kv.head_dim; d += 16) store(s.out[r] + d, mul(load(s.out[r] + d), shrink));
    s.peak[r] = peak;
  }
  if (s.peak[r] == -kInfinity) {  // nothing to see yet: leave the sums as they are
    for (int t = 0; t < tokens; ++t) s.weights[r][t] = 0;
    for (int t = 0; t < tokens / 2; ++t) s.pairs[r][t] = 0;
    return;
  }
  // Sixteen sums over the positions: pages nobody may see add exact zeros.
  const F32 peak = set(s.peak[r]);
  F32 totals = load(s.totals[r]);
  for (int t = 0; t < tokens; t += 16) {
    F32 e = exp(sub(mul(load(scores + t), scale), peak));
    if (m.kv.kind == KvLayout::bf16) {
      // The total adds what is multiplied, so that the rounded probabilities still sum to one.
      store_bf16((uint16_t*)s.pairs[r] + t, e);
      totals = add(totals, load_bf16((uint16_t*)s.pairs[r] + t));
    } else {
      totals = add(totals, e);
      if (m.kv.kind == KvLayout::int8)
        e = mul(e, load((const float*)(pages[t / kPageTokens] + 2 * m.kv.head_dim * kPageTokens) + kPageTokens));
      store(s.weights[r] + t, e);
    }
  }
  store(s.totals[r], totals);
}

template <int R>
void attend_rows(const Attend& m, int span_row, int kv_head, int first, const int32_t* page_ids) {
  Queries<R> s;
  const int group = m.heads / m.kv.heads, dim = m.kv.head_dim;
  int low = 1 << 30, high = 0;
  int position[R];
  for (int r = 0; r < R; ++r) {
    const int row = span_row + (first + r) / group, head = kv_head * group + (first + r) % group;
    load_query(s, m, m.q + row * m.ld + int64_t(head) * dim, r);
    position[r] = m.positions[row];
    high = position[r] > high ? position[r] : high;
    const int from = m.window > 0 && position[r] >= m.window ? position[r] - m.window + 1 : 0;
    low = from < low ? from : low;
  }
  constexpr int T = kMaxRows < 12 ? 1 : R <= 3 ? 4 : R <= 6 ? 2 : 1;
  for (int base = low / kBlockTokens * kBlockTokens; base <= high; base += kBlockTokens) {
    const uint8_t* pages[kBlockPages];
    int count = 0;
    for (; count < kBlockPages && base + count * kPageTokens <= high; ++count)
      pages[count] = m.arena + kv_offset(m.kv, m.layer, kv_head, page_ids[base / kPageTokens + count]);
    int t = 0;
    for (; t + T <= count; t += T) score_pages<R, T>(s, m.kv, pages, t);
    for (; t < count; ++t) score_pages<R, 1>(s, m.kv, pages, t);
    for (int r = 0; r < R; ++r) {
      const int from = m.window > 0 && position[r] >= m.window ? position[r] - m.window + 1 : 0;
      soften(s, m, pages, count, r, base, from, position[r]);
    }
    add_values(s, m.kv, pages, count);
  }
  for (int r = 0; r < R; ++r) {
    const int row = span_row + (first + r) / group, head = kv_head * group + (first + r) % group;
    const F32 inverse = set(1.0f / sum(load(s.totals[r])));
    for (int d = 0; d < dim; d += 16)
      store(m.out + row * m.out_ld + int64_t(head) * dim + d, mul(load(s.out[r] + d), inverse));
  }
}

inline void attend(const Attend& m, int span_row, int kv_head, int first, int count, const int32_t* pages) {
  using Function = void (*)(const Attend&, int, int, int, const int32_t*);
  static constexpr Function table[] = {
      attend_rows<1>, attend_rows<2>,
#if !defined(TRIMTAB_ISA_portable)
      attend_rows<3>, attend_rows<4>,
#endif
#if defined(TRIMTAB_ISA_avx512)
      attend_rows<5>, attend_rows<6>, attend_rows<7>, attend_rows<8>,
      attend_rows<9>, attend_rows<10>, attend_rows<11>, attend_rows<12>,
#endif
  };
  static_assert(sizeof table / sizeof *table == kMaxRows);
  table[count - 1](m, span_row, kv_head, first, pages);
}

}  // namespace trimtab::TRIMTAB_ISA
