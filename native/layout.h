// How weights, activations and KV pages lie in memory. Every kernel, packer and reader counts on this file.
#pragma once
#include <cstdint>

namespace trimtab {

constexpr int kTileRows = 16;    // output rows a weight tile interleaves: one lane each
constexpr int kGroup = 32;       // inputs that share one quantization step of the activations
constexpr int kPageTokens = 16;  // positions in one KV page

inline int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// ---- weights -----------------------------------------------------------------------------------------
// A matrix is a run of row tiles (16 output rows); a row tile is a run of input steps.
//
// grouped  32 inputs a step: 4-bit or 8-bit values, then fp16 scales, then fp16 minima if there are any.
//          4 bits: line[4][16 rows][4 bytes], low nibble input 4 line + byte, high nibble 16 + that.
//          8 bits: line[8][16 rows][4 bytes].
//          Values are unsigned. Without minima they carry a fixed zero point (8 or 128).
//          group 16 keeps one scale (and minimum) for each half of the step.
// int8     4 inputs a line, values + 128; after the last line float scale[16].
// bf16     2 inputs a line.
struct Format {
  enum Kind : uint8_t { grouped, int8, bf16 };
  Kind kind = bf16;
  uint8_t bits = 16;
  uint8_t group = 32;
  bool minima = false;

  int zero_point() const { return kind == int8 ? 128 : kind == grouped && !minima ? (bits == 4 ? 8 : 128) : 0; }
  int64_t step_bytes() const {  // grouped only
    return int64_t(bits) * 64 + (kGroup / group) * kTileRows * 2 * (minima ? 2 : 1);
  }
  int64_t tile_bytes(int64_t inputs) const {
    const int64_t padded = round_up(inputs, kGroup);
    if (kind == grouped) return padded / kGroup * step_bytes();
    if (kind == int8) return padded * kTileRows + kTileRows * 4;
    return padded * kTileRows * 2;
  }
  bool operator==(const Format&) const = default;
};

// ---- activations -------------------------------------------------------------------------------------
// A multiply reads its activations packed by blocks of `rows` rows (the rows it keeps in registers), so
// that every address is one pointer plus a constant.
//
// plain    float32 rows, not packed: what additions, norms and attention read.
// grouped  for each 32 inputs: int8 q[rows][32], float scale[rows], correction[32 / group][rows]:
//          int32 -zero_point * sum(q) for a fixed zero point, float scale * sum(q) for minima.
// token    int8 q[inputs / 4][rows][4], then float scale[rows], int32 -128 * sum(q) [rows].
// wide     float32 x[inputs][rows].
// half     bf16 pairs x[inputs / 2][rows][2].
struct Form {
  enum Kind : uint8_t { plain, grouped, token, wide, half };
  Kind kind = plain;
  uint8_t group = 32;
  uint8_t zero_point = 0;

  int64_t step_bytes(int rows) const { return int64_t(rows) * (kGroup + 4 + 4 * (kGroup / group)); }  // grouped
  int64_t block_bytes(int64_t inputs, int rows) const {
    const int64_t padded = round_up(inputs, kGroup);
    switch (kind) {
      case grouped: return padded / kGroup * step_bytes(rows);
      case token: return (padded + 8) * rows;
      case wide: return padded * rows * 4;
      case half: return padded * rows * 2;
      default: return round_up(inputs, kGroup) * rows * 4;
    }
  }
  bool operator==(const Form&) const = default;
};

// ---- KV pages ----------------------------------------------------------------------------------------
// A page holds 16 positions of every layer: for each layer and KV head the keys, then the values.
//
// f32   keys[head_dim][16], values[16][head_dim]
// bf16  keys[head_dim / 2][16][2], values[8][head_dim][2]        (pairs of dimensions / of positions)
// int8  keys[head_dim / 4][16][4], values[16][head_dim], float key_scale[16], float value_scale[16]
struct KvLayout {
  enum Kind : uint8_t { f32, bf16, int8 };
  Kind kind = bf16;
  int layers = 0, heads = 0, head_dim = 0;

  int64_t head_bytes() const {
    const int64_t values = int64_t(2) * kPageTokens * head_dim;
    return kind == f32 ? values * 4 : kind == bf16 ? values * 2 : values + 2 * kPageTokens * 4;
  }
  int64_t page_bytes() const { return head_bytes() * heads * layers; }
};

}  // namespace trimtab
