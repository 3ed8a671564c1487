// Chooses or scores the token of one row of logits. trimtab.engine.sampling says what it must return
// (`sample_reference`) and packs the rows; this side knows neither sequences nor threads.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace trimtab {

struct SamplingRow {  // numpy: SAMPLING
  float temperature, top_p, min_p, repetition, presence, frequency;
  int32_t top_k;
  int32_t top_logprobs;  // -1: no log-probability at all, 0: the token's own, n: and the n best
  int32_t score;         // >= 0: return this token and its log-probability instead of choosing one
  int32_t mask;          // one more than the number of the step's mask that applies; 0: every token is allowed
  uint64_t seed, draw;
};
static_assert(sizeof(SamplingRow) == 56, "packed rows come from numpy");

struct AdjustEntry {  // numpy: ADJUST
  int32_t token, count, in_prompt;
  float bias;
};
static_assert(sizeof(AdjustEntry) == 16, "packed entries come from numpy");

// One compilation of the sampler; the first of `sampler_variants` is the best this processor runs.
struct SamplerVariant {
  const char* name;
};
std::vector<const SamplerVariant*> sampler_variants();

// Bytes of scratch one call needs, aligned to 8; each thread brings its own.
size_t sampler_scratch_bytes(int vocab);

// One row by one thread. `mask` holds a bit for each allowed token, or is null. `top_ids` and `top_logprobs`
// have `width` places; places that were not asked for get -1 and -inf. `logprob` is NaN when not asked for.
// The same bits come out on every instruction set. A draw differs from the reference only where the random
// number, top_p or min_p falls within 1e-5 of a boundary between two tokens.
void sample_row(const float* logits, int vocab, const SamplingRow& row, const AdjustEntry* adjust, int num_adjust,
                const uint32_t* mask, float* scratch, int32_t* token, float* logprob, int32_t* top_ids,
                float* top_logprobs, int width, const SamplerVariant* variant = nullptr);

}  // namespace trimtab
