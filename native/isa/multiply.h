// Matrix multiply: packed weights x packed activations. Included once per instruction set.
//
// A tile of 16 outputs is computed for a block of R activation rows held in registers. The order of the
// float operations on a row depends on nothing but the matrix, so a row's result is the same in any batch.
#pragma once
#include "isa/pack.h"
#include "kernels.h"
#include "simd/simd.h"

namespace trimtab::TRIMTAB_ISA {

template <int R>
struct Rows {
  F32 v[R];
};

template <class T>
inline T read(const uint8_t* p) {
  T value;
  __builtin_memcpy(&value, p, sizeof value);
  return value;
}

// How many tiles a policy computes together, so that they share every broadcast of an activation: as many as its
// `registers` hold accumulators of R rows, one to four. `kTilesMost` is what a caller may ask for instead.
constexpr int tiles_in(int registers, int rows) {
  const int tiles = registers / rows;
  return tiles < 1 ? 1 : tiles > 4 ? 4 : tiles;
}

// ---- one policy a weight format: `tiles` computes 16 outputs x R rows of T tiles --------------------------
//
// Sums are local and copied to `out` at the end: weights are read as bytes, which may alias anything, so sums that a
// reference names would be stored and loaded again at each of them.
//
// `kOnce` tiles go together where each weight serves one block of rows, so that memory sets the pace of few rows and
// one contiguous stream gets most of it; `kAgain` where it serves many, and loads of activations bound the arithmetic.

template <int kBits, int kSpan, bool kMinima>
struct GroupedWeights {
  template <int R>
  static constexpr int kOnce = R > 4 && R <= kMaxRows / 2 ? 2 : 1;
  template <int R>  // an integer for each half of a group, and a float
  static constexpr int kAgain = kMaxRows < 12 ? kOnce<R> : tiles_in(2 * kMaxRows / (1 + kGroup / kSpan), R);
  static constexpr int kSums = sums_of(Form::grouped, kMaxRows);

  template <int R, int T>
  static inline void tiles(const Multiply& m, const uint8_t* w, const uint8_t* x, Rows<R> (&out)[T]) {
    constexpr int kHalves = kGroup / kSpan;
    constexpr int kValues = kBits * 64;
    constexpr int64_t kStep = kValues + kHalves * kTileRows * 2 * (kMinima ? 2 : 1);
    constexpr int64_t kXStep = int64_t(R) * (kGroup + 4 + 4 * kHalves);
    Rows<R> acc[T];
    for (int t = 0; t < T; ++t)
      for (int r = 0; r < R; ++r) acc[t].v[r] = zero_f();
    const int64_t steps = (m.inputs + kGroup - 1) / kGroup;
    for (int64_t step = 0; step < steps; ++step, w += kStep, x += kXStep) {
      const int8_t* q = (const int8_t*)x;
      const uint8_t* scales = x + R * kGroup;
      const uint8_t* corrections = scales + R * 4;
      I32 s[T][kHalves][R];
      for (int t = 0; t < T; ++t)
        for (int h = 0; h < kHalves; ++h)
          for (int r = 0; r < R; ++r)
            s[t][h][r] = kMinima ? zero_i() : set(read<int32_t>(corrections + 4 * (h * R + r)));
      if constexpr (kBits == 4) {
#pragma GCC unroll 4
        for (int line = 0; line < 4; ++line) {
          Bytes low[T], high[T];
#pragma GCC unroll 4
          for (int t = 0; t < T; ++t) {
            const Bytes both = load_bytes(w + t * m.tile_stride + 64 * line);
            low[t] = low_nibbles(both);
            high[t] = high_nibbles(both);
          }
#pragma GCC unroll 16
          for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
            for (int t = 0; t < T; ++t) s[t][0][r] = dot<true>(s[t][0][r], low[t], q + r * kGroup + 4 * line);
#pragma GCC unroll 16
          for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
            for (int t = 0; t < T; ++t)
              s[t][kHalves - 1][r] = dot<true>(s[t][kHalves - 1][r], high[t], q + r * kGroup + 16 + 4 * line);
        }
      } else {
#pragma GCC unroll 8
        for (int line = 0; line < 8; ++line) {
          Bytes bytes[T];
#pragma GCC unroll 4
          for (int t = 0; t < T; ++t) bytes[t] = load_bytes(w + t * m.tile_stride + 64 * line);
#pragma GCC unroll 16
          for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
            for (int t = 0; t < T; ++t) {
              I32& sum = s[t][line / 4 % kHalves][r];
              sum = dot<false>(sum, bytes[t], q + r * kGroup + 4 * line);
            }
        }
      }
#pragma GCC unroll 2
      for (int h = 0; h < kHalves; ++h) {
#pragma GCC unroll 4
        for (int t = 0; t < T; ++t) {
          const uint16_t* halves = (const uint16_t*)(w + t * m.tile_stride + kValues) + h * kTileRows;
          const F32 scale = load_f16(halves);
#pragma GCC unroll 16
          for (int r = 0; r < R; ++r)
            acc[t].v[r] = fma(to_float(s[t][h][r]), mul(scale, set(read<float>(scales + 4 * r))), acc[t].v[r]);
          if constexpr (kMinima) {
            const F32 minimum = load_f16(halves + kHalves * kTileRows);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r)
              acc[t].v[r] = fma(minimum, set(read<float>(corrections + 4 * (h * R + r))), acc[t].v[r]);
          }
        }
      }
    }
    for (int t = 0; t < T; ++t) out[t] = acc[t];
  }
};

struct Int8Weights {
  template <int R>
  static constexpr int kOnce = R == 1 ? 4 : R <= 4 ? 2 : 1;
  template <int R>
  static constexpr int kAgain = kMaxRows < 12 ? kOnce<R> : tiles_in(2 * kMaxRows, R);
  static constexpr int kSums = sums_of(Form::token, kMaxRows);

  template <int R, int T>
  static inline void tiles(const Multiply& m, const uint8_t* w, const uint8_t* x, Rows<R> (&acc)[T]) {
    const int64_t padded = round_up(m.inputs, kGroup);
    const uint8_t* tail = x + padded * R;
    I32 s[T][R];
    for (int t = 0; t < T; ++t)
      for (int r = 0; r < R; ++r) s[t][r] = set(read<int32_t>(tail + 4 * (R + r)));
    const uint8_t* line = w;
    for (int64_t k = 0; k < padded; k += 4, line += 64, x += 4 * R) {
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) {
        const Bytes bytes = load_bytes(line + t * m.tile_stride);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) s[t][r] = dot<false>(s[t][r], bytes, (const int8_t*)x + 4 * r);
      }
    }
    for (int t = 0; t < T; ++t) {
      const F32 scale = load((const float*)(line + t * m.tile_stride));
      for (int r = 0; r < R; ++r)
        acc[t].v[r] = mul(to_float(s[t][r]), mul(scale, set(read<float>(tail + 4 * r))));
    }
  }
};

// bf16 weights, float32 activations: products are exact, so this is the reference-quality path.
struct Bf16Weights {
  template <int R>
  static constexpr int kOnce = R == 1 ? 4 : R <= 3 ? 2 : 1;
  template <int R>
  static constexpr int kAgain = kMaxRows < 12 ? kOnce<R> : tiles_in(kMaxRows, R);
  static constexpr int kSums = sums_of(Form::wide, kMaxRows);

  template <int R, int T>
  static inline void tiles(const Multiply& m, const uint8_t* w, const uint8_t* x, Rows<R> (&out)[T]) {
    Rows<R> acc[T], odd[T];
    for (int t = 0; t < T; ++t)
      for (int r = 0; r < R; ++r) acc[t].v[r] = odd[t].v[r] = zero_f();
    const int64_t padded = round_up(m.inputs, kGroup);
    for (int64_t k = 0; k < padded; k += 2, w += 64, x += 8 * R) {
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) {
        const Bytes pairs = load_bytes(w + t * m.tile_stride);
        const F32 first = bf16_even(pairs), second = bf16_odd(pairs);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) acc[t].v[r] = fma(first, set(read<float>(x + 4 * r)), acc[t].v[r]);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) odd[t].v[r] = fma(second, set(read<float>(x + 4 * (R + r))), odd[t].v[r]);
      }
    }
    for (int t = 0; t < T; ++t)
      for (int r = 0; r < R; ++r) out[t].v[r] = add(acc[t].v[r], odd[t].v[r]);
  }
};

// bf16 weights, bf16 activations: twice the arithmetic rate where the processor multiplies bf16.
struct Bf16Pairs {
  template <int R>
  static constexpr int kOnce = R == 1 ? 8 : R <= 3 ? 4 : R <= 6 ? 2 : 1;
  template <int R>
  static constexpr int kAgain = kMaxRows < 12 ? kOnce<R> : tiles_in(2 * kMaxRows, R);
  static constexpr int kSums = sums_of(Form::half, kMaxRows);

  template <int R, int T>
  static inline void tiles(const Multiply& m, const uint8_t* w, const uint8_t* x, Rows<R> (&out)[T]) {
    Rows<R> acc[T];
    for (int t = 0; t < T; ++t)
      for (int r = 0; r < R; ++r) acc[t].v[r] = zero_f();
    const int64_t padded = round_up(m.inputs, kGroup);
    for (int64_t k = 0; k < padded; k += 2, w += 64, x += 4 * R) {
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        const Bytes pairs = load_bytes(w + t * m.tile_stride);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) acc[t].v[r] = dot_bf16(acc[t].v[r], pairs, read<uint32_t>(x + 4 * r));
      }
    }
    for (int t = 0; t < T; ++t) out[t] = acc[t];
  }
};

// ---- what happens to 16 outputs x R rows -----------------------------------------------------------------

template <int R>
inline void finish(const Multiply& m, int row0, int64_t tile, const Rows<R>& acc) {
  const Epilogue& end = m.end;
  const int64_t column = tile * kTileRows;
  const F32 bias = end.bias ? load(end.bias + column) : zero_f();
  for (int r = 0; r < R && row0 + r < m.rows; ++r) {
    F32 y = acc.v[r];
    if (end.bias) y = add(y, bias);
    const int64_t at = (row0 + r) * end.ld + column;
    if (end.add) y = add(y, load(end.add + at));
    store(end.out + at, y);
  }
}

template <class W, int R, int T>
inline void plain_block(const Multiply& m, int block, int64_t begin, int64_t end) {
  const uint8_t* x = m.x + block * m.block_stride;
  int64_t tile = begin;
  for (; tile + T <= end; tile += T) {
    Rows<R> acc[T];
    W::template tiles<R, T>(m, m.weights + tile * m.tile_stride, x, acc);
    for (int t = 0; t < T; ++t) finish<R>(m, block * R, tile + t, acc[t]);
  }
  for (; tile < end; ++tile) {
    Rows<R> acc[1];
    W::template tiles<R, 1>(m, m.weights + tile * m.tile_stride, x, acc);
    finish<R>(m, block * R, tile, acc[0]);
  }
}

inline F32 gate_times_up(const Epilogue& e, F32 gate, F32 up) {
  return mul(e.activation == Epilogue::silu ? silu(gate) : gelu_tanh(gate), up);
}

// Units of 32 outputs: gate and up tiles alternate, so a unit is four tiles in a row (two at a ragged end).
template <class W, int R, int T>
inline void gated_block(const Multiply& m, int block, int64_t begin, int64_t end) {
  const Epilogue& e = m.end;
  const uint8_t* x = m.x + block * m.block_stride;
  for (int64_t unit = begin; unit < end; ++unit) {
    alignas(64) float out[R][kGroup];
    int done = 0;
    if constexpr (T >= 4) {
      if (unit * 4 + 4 <= m.tiles) {
        Rows<R> all[4];  // gate, up, gate, up
        W::template tiles<R, 4>(m, m.weights + unit * 4 * m.tile_stride, x, all);
        for (int r = 0; r < R; ++r) {
          store(out[r], gate_times_up(e, all[0].v[r], all[1].v[r]));
          store(out[r] + 16, gate_times_up(e, all[2].v[r], all[3].v[r]));
        }
        done = 2;
      }
    }
    for (int pair = done; pair < 2; ++pair) {
      const int64_t tile = unit * 4 + pair * 2;
      if (tile >= m.tiles) {
        for (int r = 0; r < R; ++r) store(out[r] + 16, zero_f());
        break;
      }
      Rows<R> both[2];  // gate and up lie side by side
      if constexpr (T >= 2) {
        W::template tiles<R, 2>(m, m.weights + tile * m.tile_stride, x, both);
      } else {
        W::template tiles<R, 1>(m, m.weights + tile * m.tile_stride, x, reinterpret_cast<Rows<R>(&)[1]>(both[0]));
        W::template tiles<R, 1>(m, m.weights + (tile + 1) * m.tile_stride, x, reinterpret_cast<Rows<R>(&)[1]>(both[1]));
      }
      for (int r = 0; r < R; ++r) store(out[r] + 16 * pair, gate_times_up(e, both[0].v[r], both[1].v[r]));
    }
    for (int r = 0; r < R && block * R + r < m.rows; ++r) {
      if (e.packed) {
        const int row = block * R + r, to = row / e.packed_rows;
        pack_group(out[r], e.form, row % e.packed_rows, e.packed_rows,
                   e.packed + to * e.form.block_bytes(e.ld, e.packed_rows), unit);
      } else {
        float* to = e.out + (block * R + r) * e.ld + unit * kGroup;
        store(to, load(out[r]));
        store(to + 16, load(out[r] + 16));
      }
    }
  }
}

template <class W, int R, int T>
void run_blocks(const Multiply& m, int64_t begin, int64_t end) {
  const int blocks = (m.rows + R - 1) / R;
  // A strip of weights is read from memory once and stays in the second-level cache for all row blocks.
  const int64_t unit_bytes = m.tile_stride * (m.end.gated ? 4 : 1);
  int64_t strip = end - begin;
  if (blocks > 1) {
    strip = 1 + (m.strip_bytes ? m.strip_bytes : kStripBytes) / unit_bytes;
    if (!m.end.gated) strip = (strip + T - 1) / T * T;
  }
  for (int64_t at = begin; at < end; at += strip) {
    const int64_t until = at + strip < end ? at + strip : end;
    for (int block = 0; block < blocks; ++block) {
      if (m.end.gated)
        gated_block<W, R, T>(m, block, at, until);
      else
        plain_block<W, R, T>(m, block, at, until);
    }
  }
}

template <class W, int R>
void run_rows(const Multiply& m, int64_t begin, int64_t end) {
  constexpr int kOnce = W::template kOnce<R>, kAgain = W::template kAgain<R>, kFit = W::kSums / R;
  constexpr int kMost = kFit > 4 || kOnce > 4 ? 4 : kFit > kOnce ? kFit : kOnce;
  switch (m.tiles_together < kMost ? m.tiles_together : kMost) {  // constants, so that only what pays is compiled
    case 4: return run_blocks<W, R, kMost < 4 ? 1 : 4>(m, begin, end);
    case 3: return run_blocks<W, R, kMost < 3 ? 1 : 3>(m, begin, end);
    case 2: return run_blocks<W, R, kMost < 2 ? 1 : 2>(m, begin, end);
    case 1: return run_blocks<W, R, 1>(m, begin, end);
  }
  const bool again = R <= kManyRows && m.rows > R;
  if (m.end.gated) {
    if ((again ? kAgain : kOnce) > 1) return run_blocks<W, R, kMost < 2 ? 1 : 2>(m, begin, end);
    return run_blocks<W, R, 1>(m, begin, end);
  }
  if constexpr (R <= kManyRows) {
    if (again) return run_blocks<W, R, kAgain>(m, begin, end);
  }
  run_blocks<W, R, kOnce>(m, begin, end);
}

using RowsFunction = void (*)(const Multiply&, int64_t, int64_t);

template <class W>
void run_format(const Multiply& m, int64_t begin, int64_t end) {
  static constexpr RowsFunction table[] = {
      run_rows<W, 1>, run_rows<W, 2>,
#if !defined(TRIMTAB_ISA_portable)
      run_rows<W, 3>, run_rows<W, 4>,
#endif
#if defined(TRIMTAB_ISA_avx512)
      run_rows<W, 5>, run_rows<W, 6>, run_rows<W, 7>, run_rows<W, 8>,
      run_rows<W, 9>, run_rows<W, 10>, run_rows<W, 11>, run_rows<W, 12>,
#endif
  };
  static_assert(sizeof table / sizeof *table == kMaxRows);
  table[m.block_rows - 1](m, begin, end);
}

}  // namespace trimtab::TRIMTAB_ISA
