// One row's token. Nothing is ever sorted whole: block maxima name the few logits worth looking at, and the
// places where cumulative mass crosses top_p or the random number are found by partitioning around pivots.
#include "sampler.h"

#include <algorithm>
#include <functional>

#include "sampler_passes.h"

namespace trimtab {
namespace sampler {
namespace {

#if defined(__x86_64__)
TRIMTAB_SAMPLER_PASSES(avx512, 16, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))))
TRIMTAB_SAMPLER_PASSES(avx2, 8, __attribute__((target("avx2"))))
#endif
TRIMTAB_SAMPLER_PASSES(portable, 4, )

std::vector<const Passes*> usable_passes() {
  std::vector<const Passes*> usable;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    usable.push_back(&avx512_passes);
  }
  if (__builtin_cpu_supports("avx2")) usable.push_back(&avx2_passes);
#endif
  usable.push_back(&portable_passes);
  return usable;
}

constexpr float kAbove = kInfinity;  // as an upper bound: none

// A token that may be chosen. Ascending keys are the order of the reference: highest logit, then lowest id.
struct Candidate {
  uint64_t key;
  float logit;
  float weight;
  int32_t id() const { return int32_t(key & 0xffffffff); }
};

struct ByKey {
  bool operator()(const Candidate& a, const Candidate& b) const { return a.key < b.key; }
};

uint64_t key_of(float logit, int32_t id) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, logit + 0.0f);  // -0 becomes 0
  const uint32_t ascending = bits >> 31 ? ~bits : bits | 0x80000000u;
  return uint64_t(~ascending) << 32 | uint32_t(id);
}

struct Scratch {
  float* adjusted;        // (vocab)
  float* lanes;           // (blocks * 16)
  float* spare;           // (blocks * 16)
  Candidate* candidates;  // (vocab + 1): gathering writes one place ahead
};

size_t rounded(size_t bytes) { return (bytes + 63) / 64 * 64; }

size_t lane_bytes(int64_t vocab) { return num_blocks(vocab) * kLanes * sizeof(float); }

Scratch divide(float* memory, int64_t vocab) {
  char* at = reinterpret_cast<char*>(memory);
  char* lanes = at + rounded(vocab * sizeof(float));
  char* spare = lanes + lane_bytes(vocab);
  char* candidates = spare + lane_bytes(vocab);
  return {memory, reinterpret_cast<float*>(lanes), reinterpret_cast<float*>(spare),
          reinterpret_cast<Candidate*>(candidates)};
}

uint64_t mix(uint64_t z) {
  z += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

double uniform(uint64_t seed, uint64_t draw) {
  return double(mix(mix(seed) + (draw + 1) * 0x9E3779B97F4A7C15u) >> 11) * 0x1p-53;
}

// A row of logits with the maxima of its lanes; what every later step looks at first.
struct Row {
  const Passes* passes;
  const float* x;
  int64_t n;
  float* lanes;
  float highest;

  Row(const Passes& use, const float* x, int64_t n, float* lanes) : passes(&use), x(x), n(n), lanes(lanes) {
    passes->lane_maxima(x, n, lanes);
    highest = *std::max_element(lanes, lanes + num_lanes());
  }

  int64_t num_lanes() const { return num_blocks(n) * kLanes; }

  int64_t first_highest() const {  // of a highest above -inf
    const int64_t lane = std::find(lanes, lanes + num_lanes(), highest) - lanes;
    int64_t i = lane / kLanes * kBlock;
    while (x[i] != highest) ++i;
    return i;
  }

  // A logit that at least `count` others reach, found among the lanes' maxima.
  float reached_by(int64_t count, float* spare) const {
    if (count > num_lanes()) return -FLT_MAX;
    std::copy(lanes, lanes + num_lanes(), spare);
    std::nth_element(spare, spare + count - 1, spare + num_lanes(), std::greater<float>());
    return std::max(spare[count - 1], -FLT_MAX);
  }

  // All logits in [low, high), unordered and without weights.
  int64_t gather(float low, float high, Candidate* out) const {
    const bool unbounded = high == kAbove;
    int64_t count = 0;
    for (int64_t lane = 0; lane < num_lanes(); ++lane) {
      if (!(lanes[lane] >= low)) continue;
      const int64_t begin = lane / kLanes * kBlock + lane % kLanes;
      const int64_t end = std::min(begin + kBlock, n);
      for (int64_t i = begin; i < end; i += kLanes) {
        out[count].key = uint64_t(i);
        out[count].logit = x[i];
        count += (x[i] >= low) & (unbounded | (x[i] < high));
      }
    }
    for (int64_t i = 0; i < count; ++i) out[i].key = key_of(out[i].logit, int32_t(out[i].key));
    return count;
  }
};

// `count` highest logits, unordered; fewer where the row has fewer above -inf.
int64_t gather_highest(const Row& row, int64_t count, const Scratch& scratch) {
  Candidate* c = scratch.candidates;
  const int64_t found = row.gather(row.reached_by(count, scratch.spare), kAbove, c);
  if (found <= count) return found;
  std::nth_element(c, c + count, c + found, ByKey());
  return count;
}

struct Crossing {
  int64_t index;  // candidates [0, index] come up to the crossing, the last of them at `index`
  double mass;    // theirs
};

// The first candidate, in order of keys, at which the cumulative mass reaches `target`.
Crossing find_crossing(Candidate* c, int64_t count, double target) {
  constexpr int64_t few = 24;
  constexpr int patience = 64;  // rounds; bad pivots end in a sort, not in quadratic time
  int64_t low = 0, high = count;
  double above = 0;
  for (int round = 0; high - low > few && round < patience; ++round) {
    const uint64_t a = c[low].key, b = c[low + (high - low) / 2].key, d = c[high - 1].key;
    const uint64_t pivot = std::max(std::min(a, b), std::min(std::max(a, b), d));
    int64_t middle = low;
    double mass = 0;
    for (int64_t i = low; i < high; ++i) {
      const Candidate moved = c[i];
      const bool before = moved.key <= pivot;
      c[i] = c[middle];
      c[middle] = moved;
      middle += before;
      mass += before ? moved.weight : 0.0f;
    }
    if (above + mass >= target) {
      high = middle;
    } else {
      above += mass;
      low = middle;
    }
  }
  std::sort(c + low, c + high, ByKey());
  for (int64_t i = low; i < high; ++i) {
    above += c[i].weight;
    if (above >= target) return {i, above};
  }
  // Rounding alone leads here: the target is the whole mass. The last candidate with any weight it is.
  std::sort(c, c + count, ByKey());
  int64_t last = count - 1;
  while (last > 0 && !(c[last].weight > 0)) --last;
  return {last, above};
}

// How a draw turns logits into weights.
struct Softmax {
  float highest, temperature, inverse;
  Softmax(float highest, float temperature)
      : highest(highest), temperature(temperature), inverse(std::min(1.0f / temperature, FLT_MAX)) {}
  float weight(float logit) const { return exp_negative<1>((logit - highest) * inverse); }
  float level(float depth) const { return highest - depth * temperature; }  // depth in nats
  double weigh(Candidate* c, int64_t count) const {
    double sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += c[i].weight = weight(c[i].logit);
    return sum;
  }
};

// A draw from few candidates: those of top_k, or those that min_p leaves.
int32_t draw_from_few(const Row& row, const SamplingRow& params, double u, const Scratch& scratch) {
  Candidate* c = scratch.candidates;
  const Softmax softmax(row.highest, params.temperature);
  const float min_p = std::min(params.min_p, 1.0f);
  int64_t count;
  double mass, total;  // of the candidates, and of all that top_p looks at
  if (params.top_k > 0 && params.top_k < row.n) {
    count = gather_highest(row, params.top_k, scratch);
    total = mass = softmax.weigh(c, count);
  } else {
    constexpr double slack = 1e-5;  // more than a weight can err
    const double depth = (std::log(double(min_p)) - slack) * double(params.temperature);
    count = row.gather(std::max(float(row.highest + depth), -FLT_MAX), kAbove, c);
    total = mass = softmax.weigh(c, count);
    if (params.top_p < 1.0f) total = row.passes->total(row.x, row.n, row.highest, softmax.inverse);
  }
  const double target = double(params.top_p) * total;
  if (params.top_p < 1.0f && target < mass) count = find_crossing(c, count, target).index + 1;
  if (min_p > 0.0f) {
    count = std::partition(c, c + count, [min_p](const Candidate& one) { return one.weight >= min_p; }) - c;
  }
  mass = 0;
  for (int64_t i = 0; i < count; ++i) mass += c[i].weight;
  return c[find_crossing(c, count, u * mass).index].id();
}

// The crossing over a whole row. Masses above a few levels say between which two it lies; the gap is divided
// until few logits can be in it. Only those become candidates.
struct RowCrossing {
  int32_t id;
  double mass;
};

RowCrossing find_crossing(const Row& row, const Softmax& softmax, const float* first_levels, Masses masses,
                          double target, const Scratch& scratch) {
  constexpr double few = 2048;
  constexpr int patience = 8;
  float levels[kLevels];
  std::copy(first_levels, first_levels + kLevels, levels);
  float low = softmax.level(88.0f), high = kAbove;  // nothing lower has a weight
  double above = 0, reached = masses.total;
  for (int round = 0;; ++round) {
    for (int k = 0; k < kLevels; ++k) {
      if (masses.above[k] >= target) {
        low = levels[k];
        reached = masses.above[k];
        break;
      }
      high = levels[k];
      above = masses.above[k];
    }
    // No weight between the levels is less than that of the lower one.
    const double most = (reached - above) / double(softmax.weight(low));
    if (most <= few || round == patience || !(high > low) || !std::isfinite(low)) break;
    const float top = std::min(high, row.highest), step = (top - low) / (kLevels + 1);
    for (int k = 0; k < kLevels; ++k) levels[k] = top - step * float(k + 1);
    masses = row.passes->masses(row.x, row.n, row.highest, softmax.inverse, levels);
  }
  Candidate* c = scratch.candidates;
  int64_t count = row.gather(std::max(low, -FLT_MAX), high, c);
  if (count == 0) {  // rounding put the target past the end
    above = 0;
    count = row.gather(-FLT_MAX, kAbove, c);
  }
  softmax.weigh(c, count);
  const Crossing found = find_crossing(c, count, target - above);
  return {c[found.index].id(), above + found.mass};
}

// A random token of a row whose highest logit is finite. `total` becomes the mass of the whole row's softmax
// where that had to be worked out.
int32_t draw(const Row& row, const SamplingRow& params, const Scratch& scratch, double* total) {
  const double u = uniform(params.seed, params.draw);
  if ((params.top_k > 0 && params.top_k < row.n) || params.min_p > 0.0f) {
    return draw_from_few(row, params, u, scratch);
  }
  const Softmax softmax(row.highest, params.temperature);
  float levels[kLevels];
  for (int k = 0; k < kLevels; ++k) levels[k] = softmax.level(kLevelDepth[k]);
  const Masses masses = row.passes->masses(row.x, row.n, row.highest, softmax.inverse, levels);
  *total = masses.total;
  double kept = masses.total;
  if (params.top_p < 1.0f) {
    kept = find_crossing(row, softmax, levels, masses, double(params.top_p) * kept, scratch).mass;
  }
  return find_crossing(row, softmax, levels, masses, u * kept, scratch).id;
}

// Penalties and bias; every step is rounded to float as in the reference.
void adjust_logits(float* x, int vocab, const SamplingRow& params, const AdjustEntry* entries, int count) {
  for (int i = 0; i < count; ++i) {
    const AdjustEntry& entry = entries[i];
    if (entry.token < 0 || entry.token >= vocab) continue;
    float value = std::isnan(x[entry.token]) ? -kInfinity : x[entry.token];
    if (entry.count > 0 || entry.in_prompt) {
      value = value > 0 ? value / params.repetition : value * params.repetition;
    }
    if (entry.count > 0) {
      value -= params.presence;
      value -= params.frequency * float(entry.count);
    }
    value += entry.bias;
    x[entry.token] = std::isnan(value) ? -kInfinity : value;
  }
}

int64_t first_allowed(const uint32_t* mask, int64_t vocab) {
  for (int64_t i = 0; i < vocab; ++i) {
    if (mask[i / 32] >> (i % 32) & 1) return i;
  }
  return -1;
}

struct Answer {
  int32_t* token;
  float* logprob;
  int32_t* top_ids;
  float* top_logprobs;
  int width;
};

// Log softmax of the raw logits: the token's own and the most likely ones.
void report(const Row& row, int asked, double total, const Scratch& scratch, const Answer& answer) {
  const float highest = row.highest;
  if (std::isinf(highest)) {
    const auto shares = [highest](float x) { return highest < 0 || x == highest; };
    total = double(std::count_if(row.x, row.x + row.n, shares));
  } else if (total == 0) {
    total = row.passes->total(row.x, row.n, highest, 1.0f);
  }
  const double log_total = std::log(total);
  const auto logprob = [&](float x) {
    if (std::isinf(highest)) return highest < 0 || x == highest ? float(-log_total) : -kInfinity;
    return std::isnan(x) ? -kInfinity : float((double(x) - double(highest)) - log_total);
  };
  const int32_t token = *answer.token;
  *answer.logprob = token >= 0 && token < row.n ? logprob(row.x[token]) : -kInfinity;

  const int64_t count = std::min<int64_t>(std::min(asked, answer.width), row.n);
  if (count <= 0) return;
  Candidate* c = scratch.candidates;
  const int64_t found = gather_highest(row, count, scratch);
  std::sort(c, c + found, ByKey());
  for (int64_t i = 0; i < found; ++i) {
    answer.top_ids[i] = c[i].id();
    answer.top_logprobs[i] = logprob(c[i].logit);
  }
  int64_t place = found;
  for (int64_t id = 0; id < row.n && place < count; ++id) {  // too few above -inf: the lowest ids follow
    if (row.x[id] > -kInfinity) continue;
    answer.top_ids[place] = int32_t(id);
    answer.top_logprobs[place++] = logprob(row.x[id]);
  }
}

void sample(const Passes& passes, const float* logits, int vocab, const SamplingRow& params,
            const AdjustEntry* adjust, int num_adjust, const uint32_t* mask, float* memory, const Answer& answer) {
  std::fill(answer.top_ids, answer.top_ids + answer.width, -1);
  std::fill(answer.top_logprobs, answer.top_logprobs + answer.width, -kInfinity);
  *answer.token = params.score >= 0 ? params.score : -1;
  *answer.logprob = params.top_logprobs < 0 ? __builtin_nanf("") : -kInfinity;
  if (vocab <= 0) return;

  const Scratch scratch = divide(memory, vocab);
  const bool changed = params.score < 0 && (num_adjust > 0 || mask);
  const float* x = logits;
  if (changed) {
    if (mask) {
      passes.masked_copy(logits, vocab, mask, scratch.adjusted);
    } else {
      std::memcpy(scratch.adjusted, logits, vocab * sizeof(float));
    }
    adjust_logits(scratch.adjusted, vocab, params, adjust, num_adjust);
    x = scratch.adjusted;
  }
  Row row(passes, x, vocab, scratch.lanes);
  double total = 0;  // of the raw softmax, when a draw has worked it out already
  if (params.score < 0) {
    if (row.highest == -kInfinity) {
      *answer.token = mask ? int32_t(first_allowed(mask, vocab)) : 0;
    } else if (!(params.temperature > 0)) {
      *answer.token = int32_t(row.first_highest());
    } else if (row.highest == kInfinity) {
      for (int i = 0; i < vocab; ++i) scratch.adjusted[i] = x[i] == kInfinity ? 0.0f : -kInfinity;
      *answer.token = draw(Row(passes, scratch.adjusted, vocab, scratch.lanes), params, scratch, &total);
    } else {
      *answer.token = draw(row, params, scratch, &total);
    }
    if (params.top_logprobs < 0) return;
  }
  const bool same = !changed && params.temperature == 1.0f && row.highest != kInfinity;
  if (changed || row.highest == kInfinity) row = Row(passes, logits, vocab, scratch.lanes);
  report(row, params.top_logprobs, same ? total : 0, scratch, answer);
}

}  // namespace
}  // namespace sampler

std::vector<const SamplerVariant*> sampler_variants() {
  const auto usable = sampler::usable_passes();
  return {usable.begin(), usable.end()};
}

size_t sampler_scratch_bytes(int vocab) {
  using namespace sampler;
  return rounded(vocab * sizeof(float)) + 2 * lane_bytes(vocab) + (size_t(vocab) + 1) * sizeof(Candidate);
}

void sample_row(const float* logits, int vocab, const SamplingRow& row, const AdjustEntry* adjust, int num_adjust,
                const uint32_t* mask, float* scratch, int32_t* token, float* logprob, int32_t* top_ids,
                float* top_logprobs, int width, const SamplerVariant* variant) {
  static const sampler::Passes& best = *sampler::usable_passes().front();
  const sampler::Passes& passes = variant ? *static_cast<const sampler::Passes*>(variant) : best;
  sampler::sample(passes, logits, vocab, row, adjust, num_adjust, mask, scratch,
                  {token, logprob, top_ids, top_logprobs, width});
}

}  // namespace trimtab
