// A model as a flat list of operations over one scratch arena, run as a whole in one call a step.
//
// The list is recorded once by kernels/native.py from the readable model; what lies where in the arena is
// decided there. The program knows rows, spans, pages and operations; it never hears of requests.
#pragma once
#include <algorithm>
#include <limits>
#include <variant>
#include <vector>

#include "blocking.h"
#include "exec/memory.h"
#include "exec/pool.h"
#include "kernels.h"
#include "matrix.h"
#include "sampler.h"
#include "sketch.h"

namespace trimtab {

constexpr int64_t kNowhere = -1;
// With more rows the projection is bound by arithmetic, and a sketch saves none.
constexpr int kSketchRows = 4;

// A place in the arena: plain float rows of stride `ld`, or packed activations of `width` inputs.
struct Place {
  int64_t offset = kNowhere;
  int64_t width = 0;
  Form form;
  std::array<uint8_t, kNumRowClasses> rows{};  // of a block, at most, by class of row counts; 0: the kernels' choice
  int64_t ld() const { return round_up(width, kGroup); }
};

struct EmbedOp { const Matrix* table; Place out; float scale; };
struct AnglesOp { Place out; std::vector<float> frequencies; float factor; };
struct NormOp { Place in, out; std::vector<float> weight; float eps; };
struct PackOp { Place in, out; };
struct MultiplyOp { const Matrix* matrix; Place in, out, add; std::vector<float> bias; Epilogue::Activation activation; Blockings blockings; };
struct RopeStoreOp { Place in, out, angles; int layer, heads; std::vector<float> q_norm, k_norm; float eps; };
struct AttendOp { Place in, out; int layer, heads; float scale, softcap; int window; };
struct AddOp { Place a, b, out; };
// `sketch` may be null; `rough` is where it wants its activations.
struct HeadOp { const Matrix* matrix; const Sketch* sketch; Place in, packed, rough, logits; std::vector<float> weight; float eps, softcap; };
using Op = std::variant<EmbedOp, AnglesOp, NormOp, PackOp, MultiplyOp, RopeStoreOp, AttendOp, AddOp, HeadOp>;

// One step's work; see engine/batch.py for the meaning of the arrays.
struct Step {
  const int32_t *tokens, *positions;
  int rows;
  const int32_t *span_start, *page_start, *pages;
  int spans;
  const int32_t* wanted;
  int num_wanted;
  const SamplingRow* sampling;
  const int32_t* adjust_start;
  const AdjustEntry* adjust;
  const uint32_t* masks;  // a row of `mask_words` for each mask; SamplingRow says which one is whose
  int64_t mask_words;
  const int32_t* hidden_rows;  // rows whose final hidden state is a result, normed
  int num_hidden;
  // Results; `logits` null unless the caller wants them all, and then nothing is sampled.
  int32_t* out_tokens;
  float* out_logprobs;
  int32_t* out_top_tokens;
  float* out_top_logprobs;
  int top;
  float* logits;
  float* hidden;  // (num_hidden, width of the model)

  // The tokens that wanted row i may choose, or null for all.
  const uint32_t* mask_of(int i) const { return sampling[i].mask > 0 ? masks + (sampling[i].mask - 1) * mask_words : nullptr; }
};

class Program {
 public:
  Program(Pool& pool, const Kernels& kernels, KvLayout kv, int64_t num_pages, int64_t scratch_bytes, int max_rows,
          int max_wanted, int64_t vocab);

  void record(Op op) { ops_.push_back(std::move(op)); }
  void run(const Step&);  // throws std::invalid_argument on a batch that does not hold together

  Recorder* recorder = nullptr;  // of runs and operations

  int64_t num_pages() const { return num_pages_; }
  int64_t vocab() const { return vocab_; }
  int64_t width() const;  // of a hidden state
  const exec::Memory& pages() const { return kv_memory_; }
  int64_t page_bytes() const { return kv_.page_bytes(); }
  const exec::Memory& scratch() const { return scratch_; }

 private:
  void check(const Step&) const;
  void plan(const Step&);
  // Operations first..last-1, by every thread.
  void execute(const Step&, int thread, int first, int last);
  void note_step(const Step&, int64_t begin);
  template <class T>
  T* at(const Place& p) const { return reinterpret_cast<T*>(scratch_.data() + p.offset); }
  int block_rows(const Place& p, int rows) const { return block_rows_of(kernels_, p.rows[row_class(rows)], rows); }
  void put_row(const Place& to, const float* x, int row, int block_rows) const;
  void multiply(int thread, const Matrix&, const Place& in, int rows, const Blocking&, const Epilogue&);

  void operate(const EmbedOp&, const Step&, int thread);
  void operate(const AnglesOp&, const Step&, int thread);
  void operate(const NormOp&, const Step&, int thread);
  void operate(const PackOp&, const Step&, int thread);
  void operate(const MultiplyOp&, const Step&, int thread);
  void operate(const RopeStoreOp&, const Step&, int thread);
  void operate(const AttendOp&, const Step&, int thread);
  void operate(const AddOp&, const Step&, int thread);
  void operate(const HeadOp&, const Step&, int thread);
  bool highest(const HeadOp&, const Step&, int thread);

  Pool& pool_;
  const Kernels& kernels_;
  const KvLayout kv_;
  const int64_t num_pages_;
  const int max_rows_, max_wanted_;
  const int64_t vocab_;
  exec::Memory kv_memory_, scratch_;
  std::vector<exec::Memory> sampler_scratch_, row_scratch_;  // one a thread
  std::vector<Op> ops_;

  // Decided at the start of a step, read by all threads.
  bool recording_ = false;
  bool greedy_ = false;  // few rows that all want the highest logit and nothing else
  std::vector<int32_t> row_span_;

  // What a thread found while the rows of a greedy step looked for their highest logits.
  struct alignas(64) Found {
    Found() {
      std::fill_n(floor, kSketchRows, -std::numeric_limits<float>::infinity());
      std::fill_n(best, kSketchRows, -std::numeric_limits<float>::infinity());
      std::fill_n(token, kSketchRows, -1);
    }
    float floor[kSketchRows], best[kSketchRows];
    int32_t token[kSketchRows];
  };
  std::vector<Found> found_;
  float lengths_[kSketchRows] = {};
};

}  // namespace trimtab
