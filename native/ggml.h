// The block formats of GGUF files: where the bits lie and what a weight is worth. Nothing here knows how
// trimtab stores or multiplies weights; packers ask for groups of 32 and get integers with their steps.
//
// Every format decodes as weight = scale * q + min in float32, the product rounded before the sum, which
// is bit for bit what the formats' published decoders compute.
#pragma once
#include <bit>
#include <cstdint>
#include <cstring>

namespace trimtab {

// The numbers are the file format's own.
enum class GgmlType : int {
  F32 = 0, F16 = 1, Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8,
  Q2_K = 10, Q3_K = 11, Q4_K = 12, Q5_K = 13, Q6_K = 14, IQ4_NL = 20, BF16 = 30,
};

// 32 consecutive weights of a row; half h = i / 16 has its own step: weight = scale[h] * q[i] + min[h].
struct Group32 {
  int8_t q[32];
  float scale[2];
  float min[2];
};

namespace ggml {

// Blocks as they lie in the file, little endian, without padding. fp16 values are kept as their bits.
#define TRIMTAB_PACKED __attribute__((packed))
// 32 weights; nibble i is the low half of nibbles[i] for i < 16, the high half of nibbles[i - 16] after.
struct TRIMTAB_PACKED BlockQ4_0 { uint16_t scale; uint8_t nibbles[16]; };
struct TRIMTAB_PACKED BlockQ4_1 { uint16_t scale, min; uint8_t nibbles[16]; };
struct TRIMTAB_PACKED BlockQ5_0 { uint16_t scale; uint32_t fifth; uint8_t nibbles[16]; };  // fifth: bit i
struct TRIMTAB_PACKED BlockQ5_1 { uint16_t scale, min; uint32_t fifth; uint8_t nibbles[16]; };
struct TRIMTAB_PACKED BlockQ8_0 { uint16_t scale; int8_t q[32]; };
// 256 weights in 8 groups of 32. `K` blocks scale the scales: step of a group = block scale * small integer.
struct TRIMTAB_PACKED BlockQ2_K {
  uint8_t steps[16];  // a half group each: low nibble scale, high nibble minimum
  uint8_t q[64];      // [group / 4][32], two bits a group
  uint16_t scale, min;
};
struct TRIMTAB_PACKED BlockQ3_K {
  uint8_t high[32];   // bit `group`: clear means subtract 4
  uint8_t q[64];      // as in Q2_K
  uint8_t steps[12];  // sixteen 6-bit scales: 8 bytes of low nibbles, then 4 bytes of upper pairs
  uint16_t scale;
};
struct TRIMTAB_PACKED BlockQ4_K {
  uint16_t scale, min;
  uint8_t steps[12];  // eight pairs of 6 bits, see `six_bits`
  uint8_t q[128];     // [group / 2][32], low nibble the even group
};
struct TRIMTAB_PACKED BlockQ5_K {
  uint16_t scale, min;
  uint8_t steps[12];
  uint8_t fifth[32];  // bit `group`
  uint8_t q[128];
};
struct TRIMTAB_PACKED BlockQ6_K {
  uint8_t low[128];   // [group / 4][group % 2][32], low nibble groups 0 and 1 of the four
  uint8_t high[64];   // [group / 4][32], two bits a group
  int8_t steps[16];   // a half group each
  uint16_t scale;
};
#undef TRIMTAB_PACKED
static_assert(sizeof(BlockQ4_0) == 18 && sizeof(BlockQ4_1) == 20 && sizeof(BlockQ5_0) == 22);
static_assert(sizeof(BlockQ5_1) == 24 && sizeof(BlockQ8_0) == 34 && sizeof(BlockQ2_K) == 84);
static_assert(sizeof(BlockQ3_K) == 110 && sizeof(BlockQ4_K) == 144 && sizeof(BlockQ5_K) == 176);
static_assert(sizeof(BlockQ6_K) == 210);

// fp16 bits to float, without branches so that loops over it vectorise; subnormals are exact.
inline float from_half(uint16_t bits) {
  const uint32_t magnitude = uint32_t(bits & 0x7fff) << 13;
  const uint32_t sign = uint32_t(bits & 0x8000) << 16;
  const uint32_t exponent = magnitude & 0x0f800000u;
  const uint32_t normal = magnitude + (exponent == 0x0f800000u ? 224u << 23 : 112u << 23);
  const float tiny = std::bit_cast<float>(magnitude + (113u << 23)) - std::bit_cast<float>(113u << 23);
  return std::bit_cast<float>((exponent ? normal : std::bit_cast<uint32_t>(tiny)) | sign);
}

inline float from_bf16(uint16_t bits) { return std::bit_cast<float>(uint32_t(bits) << 16); }

inline void one_step(Group32& out, float scale, float min) {
  out.scale[0] = out.scale[1] = scale;
  out.min[0] = out.min[1] = min;
}

inline void decode(const BlockQ4_0* row, int64_t group, Group32& out) {
  const BlockQ4_0& block = row[group];
  for (int i = 0; i < 16; ++i) {
    out.q[i] = int8_t((block.nibbles[i] & 15) - 8);
    out.q[i + 16] = int8_t((block.nibbles[i] >> 4) - 8);
  }
  one_step(out, from_half(block.scale), 0.0f);
}

inline void decode(const BlockQ4_1* row, int64_t group, Group32& out) {
  const BlockQ4_1& block = row[group];
  for (int i = 0; i < 16; ++i) {
    out.q[i] = int8_t(block.nibbles[i] & 15);
    out.q[i + 16] = int8_t(block.nibbles[i] >> 4);
  }
  one_step(out, from_half(block.scale), from_half(block.min));
}

inline void decode(const BlockQ8_0* row, int64_t group, Group32& out) {
  std::memcpy(out.q, row[group].q, 32);
  one_step(out, from_half(row[group].scale), 0.0f);
}

void decode(const BlockQ5_0* row, int64_t group, Group32& out);
void decode(const BlockQ5_1* row, int64_t group, Group32& out);
void decode(const BlockQ2_K* row, int64_t group, Group32& out);
void decode(const BlockQ3_K* row, int64_t group, Group32& out);
void decode(const BlockQ4_K* row, int64_t group, Group32& out);
void decode(const BlockQ5_K* row, int64_t group, Group32& out);
void decode(const BlockQ6_K* row, int64_t group, Group32& out);
void decode_codebook(const BlockQ4_0* row, int64_t group, Group32& out);  // IQ4_NL: Q4_0's bytes, other values
void decode_other(GgmlType type, const uint8_t* row, int64_t group, Group32& out);

}  // namespace ggml

// Weights and bytes of one block; {0, 0} for a number that is no type trimtab reads.
struct GgmlBlock { int weights, bytes; };
GgmlBlock block_of(GgmlType type);

bool has_groups(GgmlType type);                    // quantized: can be decoded group by group
bool has_minima(GgmlType type);                    // quantized: some weight may be scale * q + min, min != 0
int64_t row_bytes(GgmlType type, int64_t weights); // -1 unless `weights` is a multiple of the block

// Group `group` (of 32 weights) of a row that starts at `row`. Any address is aligned enough.
inline void decode_group(GgmlType type, const uint8_t* row, int64_t group, Group32& out) {
  switch (type) {
    case GgmlType::Q4_0: return ggml::decode(reinterpret_cast<const ggml::BlockQ4_0*>(row), group, out);
    case GgmlType::Q4_1: return ggml::decode(reinterpret_cast<const ggml::BlockQ4_1*>(row), group, out);
    case GgmlType::Q8_0: return ggml::decode(reinterpret_cast<const ggml::BlockQ8_0*>(row), group, out);
    default: return ggml::decode_other(type, row, group, out);
  }
}

// `weights` float32 values of any type; a multiple of the block's weights.
void dequantize(GgmlType type, const uint8_t* source, int64_t weights, float* out);

}  // namespace trimtab
