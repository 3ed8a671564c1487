#include "program.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

namespace trimtab {
namespace {

constexpr int64_t kRowScratch = 1 << 20;  // bytes a thread may use for one row: 262,144 floats

const float* or_null(const std::vector<float>& v) { return v.empty() ? nullptr : v.data(); }

}  // namespace

Program::Program(Pool& pool, const Kernels& kernels, KvLayout kv, int64_t num_pages, int64_t scratch_bytes,
                 int max_rows, int max_wanted, int64_t vocab)
    : pool_(pool), kernels_(kernels), kv_(kv), num_pages_(num_pages), max_rows_(max_rows), max_wanted_(max_wanted),
      vocab_(vocab), kv_memory_(num_pages * kv.page_bytes(), false), scratch_(scratch_bytes, false) {
  if (kv.head_dim % 16 || kv.head_dim > 256) throw std::invalid_argument("head size must be a multiple of 16, at most 256");
  for (int i = 0; i < pool.threads(); ++i) {
    sampler_scratch_.emplace_back(int64_t(sampler_scratch_bytes(int(vocab))), false);
    row_scratch_.emplace_back(kRowScratch, false);
  }
  row_span_.reserve(max_rows);
  found_.resize(pool.threads());
}

void Program::check(const Step& s) const {
  auto need = [](bool holds, const char* what) { if (!holds) throw std::invalid_argument(what); };
  need(s.rows > 0 && s.rows <= max_rows_, "more rows than the program was built for");
  need(s.num_wanted >= 0 && s.num_wanted <= max_wanted_, "more wanted rows than the program was built for");
  need(s.spans > 0 && s.span_start[0] == 0 && s.span_start[s.spans] == s.rows, "spans do not cover the rows");
  for (int i = 0; i < s.rows; ++i) {
    need(s.tokens[i] >= 0 && s.tokens[i] < vocab_, "token outside the vocabulary");
    need(s.positions[i] >= 0, "negative position");
  }
  for (int k = 0; k < s.spans; ++k) {
    need(s.span_start[k] < s.span_start[k + 1] && s.span_start[k + 1] <= s.rows, "spans must follow each other");
    const int64_t capacity = int64_t(s.page_start[k + 1] - s.page_start[k]) * kPageTokens;
    for (int i = s.span_start[k]; i < s.span_start[k + 1]; ++i) {
      need(s.positions[i] < capacity, "position outside its pages");
      need(i == s.span_start[k] || s.positions[i] == s.positions[i - 1] + 1, "positions must follow each other");
    }
  }
  for (int i = s.page_start[0]; i < s.page_start[s.spans]; ++i)
    need(s.pages[i] >= 0 && s.pages[i] < num_pages_, "page outside the pool");
  for (int i = 0; i < s.num_wanted; ++i) {
    need(s.wanted[i] >= 0 && s.wanted[i] < s.rows, "wanted row outside the batch");
    if (!s.logits) need(s.sampling[i].score < vocab_, "scored token outside the vocabulary");
  }
  for (int i = 0; i < s.num_hidden; ++i)
    need(s.hidden_rows[i] >= 0 && s.hidden_rows[i] < s.rows, "hidden row outside the batch");
}

void Program::plan(const Step& s) {
  greedy_ = !s.logits && s.num_wanted <= kSketchRows;
  for (int i = 0; greedy_ && i < s.num_wanted; ++i)
    greedy_ = !(s.sampling[i].temperature > 0) && s.sampling[i].top_logprobs < 0 && s.sampling[i].score < 0 &&
              s.adjust_start[i] == s.adjust_start[i + 1];
  if (greedy_) found_.assign(found_.size(), Found());  // of all threads: not every one may take part
  row_span_.resize(s.rows);
  for (int k = 0; k < s.spans; ++k)
    for (int i = s.span_start[k]; i < s.span_start[k + 1]; ++i) row_span_[i] = k;
  // A page that a span begins and does not fill is cleared: attention multiplies the slots nobody may see by
  // zero, and what an earlier sequence left there need not be finite.
  for (int k = 0; k < s.spans; ++k) {
    const int32_t first = s.positions[s.span_start[k]], last = s.positions[s.span_start[k + 1] - 1];
    if (last % kPageTokens == kPageTokens - 1 || last / kPageTokens * kPageTokens < first) continue;
    const int64_t page = s.pages[s.page_start[k] + last / kPageTokens];
    std::memset(kv_memory_.data() + page * kv_.page_bytes(), 0, kv_.page_bytes());
  }
}

int64_t Program::width() const {
  const auto* head = ops_.empty() ? nullptr : std::get_if<HeadOp>(&ops_.back());
  return head ? head->in.width : 0;
}

void Program::run(const Step& s) {
  recording_ = recorder != nullptr && recorder->on();
  const int64_t begin = recording_ ? Recorder::now() : 0;
  check(s);
  plan(s);
  pool_.run_stages(int(ops_.size()), s.rows, [&](int thread, int first, int last) { execute(s, thread, first, last); });
  if (recording_) note_step(s, begin);
}

void Program::execute(const Step& s, int thread, int first, int last) {
  if (!recording_) {
    for (int i = first; i < last; ++i) std::visit([&](const auto& o) { operate(o, s, thread); }, ops_[i]);
    return;
  }
  Ring& ring = recorder->ring(thread);
  int64_t begin = Recorder::now();
  for (int i = first; i < last; ++i) {
    std::visit([&](const auto& o) { operate(o, s, thread); }, ops_[i]);
    const int64_t end = Recorder::now();
    ring.detail({begin, end, kFirstOp + uint32_t(i), 0});
    begin = end;
  }
}

// What was run: everything that the operations' work can be told from.
void Program::note_step(const Step& s, int64_t begin) {
  Ring& ring = recorder->ring();
  for (int k = 0; k < s.spans; ++k)
    ring.put({begin, s.positions[s.span_start[k]], kNoteSpan, uint32_t(s.span_start[k + 1] - s.span_start[k])});
  ring.put({begin, greedy_, kNoteStep, uint32_t(s.num_wanted)});
  ring.put({begin, Recorder::now(), kSpanRun, uint32_t(s.rows)});
}

void Program::put_row(const Place& to, const float* x, int row, int block_rows) const {
  kernels_.pack_row(x, to.width, to.form, row, block_rows, at<uint8_t>(to));
}

void Program::operate(const EmbedOp& op, const Step& s, int thread) {
  pool_.share(thread, s.rows, 8, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      float* out = at<float>(op.out) + i * op.out.ld();
      op.table->unpack(kernels_, s.tokens[i], out);
      if (op.scale != 1.0f)
        for (int64_t k = 0; k < op.out.width; ++k) out[k] *= op.scale;
      for (int64_t k = op.out.width; k < op.out.ld(); ++k) out[k] = 0;
    }
  });
}

void Program::operate(const AnglesOp& op, const Step& s, int thread) {
  const int half = int(op.frequencies.size());
  pool_.share(thread, s.rows, 8, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      float* out = at<float>(op.out) + i * 2 * half;
      for (int k = 0; k < half; ++k) {
        const float angle = float(s.positions[i]) * op.frequencies[k];
        out[k] = std::cos(angle) * op.factor;
        out[half + k] = std::sin(angle) * op.factor;
      }
    }
  });
}

void Program::operate(const NormOp& op, const Step& s, int thread) {
  float* row = reinterpret_cast<float*>(row_scratch_[thread].data());
  const bool plain = op.out.form.kind == Form::plain;
  const int most = block_rows(op.out, s.rows);
  pool_.share(thread, s.rows, s.rows > 64 ? 8 : 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* in = at<float>(op.in) + i * op.in.ld();
      float* out = plain ? at<float>(op.out) + i * op.out.ld() : row;
      kernels_.norm_row(in, op.weight.data(), op.eps, op.in.width, out);
      if (!plain) put_row(op.out, row, int(i), most);
    }
  });
}

void Program::operate(const PackOp& op, const Step& s, int thread) {
  const int most = block_rows(op.out, s.rows);
  pool_.share(thread, s.rows, s.rows > 64 ? 8 : 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) put_row(op.out, at<float>(op.in) + i * op.in.ld(), int(i), most);
  });
}

void Program::multiply(int thread, const Matrix& w, const Place& in, int rows, const Blocking& blocking,
                       const Epilogue& end) {
  const int together = block_rows(in, rows);
  const Multiply m{w.format(), w.data(), w.stride(), w.tiles(), w.inputs(), in.form, at<uint8_t>(in),
                   in.form.block_bytes(in.width, together), rows, together, end, blocking.tiles, blocking.strip_bytes};
  const int64_t units = end.gated ? (w.tiles() + 3) / 4 : w.tiles();
  const int64_t grain = grain_of(kernels_, blocking.grain, rows, units, pool_.threads());
  pool_.share(thread, units, grain, [&](int64_t a, int64_t b) { kernels_.multiply(m, a, b); });
}

void Program::operate(const MultiplyOp& op, const Step& s, int thread) {
  Epilogue end;
  end.gated = op.matrix->gated();
  end.activation = op.activation;
  end.ld = op.out.ld();
  end.bias = or_null(op.bias);
  if (op.add.offset != kNowhere) end.add = at<float>(op.add);
  if (op.out.form.kind == Form::plain) {
    end.out = at<float>(op.out);
  } else {
    end.packed = at<uint8_t>(op.out);
    end.form = op.out.form;
    end.packed_rows = block_rows(op.out, s.rows);
  }
  multiply(thread, *op.matrix, op.in, s.rows, op.blockings[row_class(s.rows)], end);
}

void Program::operate(const RopeStoreOp& op, const Step& s, int thread) {
  const RopeStore m{at<float>(op.in), op.in.ld(), at<float>(op.out), op.out.ld(), at<float>(op.angles),
                    int(op.angles.width), or_null(op.q_norm), or_null(op.k_norm), op.eps,
                    kv_memory_.data(), kv_, op.layer, op.heads};
  pool_.share(thread, int64_t(s.rows) * kv_.heads, s.rows > 64 ? 12 : 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int row = int(i / kv_.heads), position = s.positions[row];
      const int32_t page = s.pages[s.page_start[row_span_[row]] + position / kPageTokens];
      kernels_.rope_store(m, row, int(i % kv_.heads), page, position % kPageTokens);
    }
  });
}

void Program::operate(const AttendOp& op, const Step& s, int thread) {
  const Attend m{at<float>(op.in), op.in.ld(), at<float>(op.out), op.out.ld(), kv_memory_.data(), kv_,
                 op.layer, op.heads, op.scale, op.softcap, op.window, s.positions};
  // Units: a span's queries of one KV head, as many at once as the registers hold. Counted without a table:
  // spans are few against the work of one.
  const int group = op.heads / kv_.heads, most = kernels_.max_rows;
  auto units_of = [&](int span) {
    return ((s.span_start[span + 1] - s.span_start[span]) * group + most - 1) / most;
  };
  int64_t units = 0;
  for (int k = 0; k < s.spans; ++k) units += units_of(k);
  pool_.share(thread, units * kv_.heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t u = begin; u < end; ++u) {
      int64_t left = u / kv_.heads;
      int span = 0;
      while (left >= units_of(span)) left -= units_of(span++);
      const int queries = (s.span_start[span + 1] - s.span_start[span]) * group;
      const int even = block_rows_of(kernels_, most, queries);
      const int first = int(left) * even;
      kernels_.attend(m, s.span_start[span], int(u % kv_.heads), first, std::min(even, queries - first),
                      s.pages + s.page_start[span]);
    }
  });
}

void Program::operate(const AddOp& op, const Step& s, int thread) {
  pool_.share(thread, s.rows, 8, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t at_row = i * op.out.ld();
      kernels_.add_row(at<float>(op.out) + at_row, at<float>(op.a) + at_row, at<float>(op.b) + at_row, op.out.ld());
    }
  });
}

void Program::operate(const HeadOp& op, const Step& s, int thread) {
  float* row = reinterpret_cast<float*>(row_scratch_[thread].data());
  if (s.num_hidden > 0)
    pool_.share(thread, s.num_hidden, 8, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        kernels_.norm_row(at<float>(op.in) + s.hidden_rows[i] * op.in.ld(), op.weight.data(), op.eps, op.in.width, row);
        std::memcpy(s.hidden + i * op.in.width, row, op.in.width * sizeof(float));
      }
    });
  if (s.num_wanted == 0) return;
  // A cap may round two logits to one; which comes first is then a question of all of them.
  const bool by_sketch = op.sketch && greedy_ && op.softcap == 0;
  pool_.share(thread, s.num_wanted, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      kernels_.norm_row(at<float>(op.in) + s.wanted[i] * op.in.ld(), op.weight.data(), op.eps, op.in.width, row);
      put_row(op.packed, row, int(i), block_rows(op.packed, s.num_wanted));
      if (!by_sketch) continue;
      put_row(op.rough, row, int(i), block_rows(op.rough, s.num_wanted));
      float squares = 0;
      for (int64_t k = 0; k < op.in.width; ++k) squares += row[k] * row[k];
      lengths_[i] = std::sqrt(squares);
    }
  });
  if (by_sketch && highest(op, s, thread)) return;
  Epilogue end;
  end.out = at<float>(op.logits);
  end.ld = op.logits.ld();
  multiply(thread, *op.matrix, op.packed, s.num_wanted, {}, end);
  pool_.share(thread, s.num_wanted, 1, [&](int64_t begin, int64_t end_row) {
    for (int64_t i = begin; i < end_row; ++i) {
      float* logits = at<float>(op.logits) + i * op.logits.ld();
      if (op.softcap > 0) kernels_.softcap_row(logits, vocab_, op.softcap);
      if (s.logits) {
        std::memcpy(s.logits + i * vocab_, logits, vocab_ * sizeof(float));
        continue;
      }
      const int32_t first = s.adjust_start[i];
      sample_row(logits, int(vocab_), s.sampling[i], s.adjust + first, s.adjust_start[i + 1] - first,
                 s.mask_of(int(i)),
                 reinterpret_cast<float*>(sampler_scratch_[thread].data()), s.out_tokens + i, s.out_logprobs + i,
                 s.out_top_tokens + i * s.top, s.out_top_logprobs + i * s.top, s.top);
    }
  });
}

// Sets the logits of the tokens from `begin` to `end` that the mask has no bit for to -inf; `begin` starts a tile.
static void forbid(float* logits, const uint32_t* mask, int64_t begin, int64_t end) {
  static_assert(32 % kTileRows == 0, "a tile lies inside one word");
  for (int64_t first = begin; first < end; first += kTileRows) {
    const uint32_t word = mask[first / 32] >> (first % 32);
    const int count = int(std::min<int64_t>(kTileRows, end - first));
    for (int k = 0; k < count; ++k)
      logits[first + k] = word >> k & 1 ? logits[first + k] : -std::numeric_limits<float>::infinity();
  }
}

// The tokens of a greedy step by the sketch. False if it cannot tell, because logits are not finite.
bool Program::highest(const HeadOp& op, const Step& s, int thread) {
  const Sketch& sketch = *op.sketch;
  Epilogue end;
  end.out = at<float>(op.logits);
  end.ld = op.logits.ld();
  multiply(thread, sketch.matrix(), op.rough, s.num_wanted, {}, end);

  constexpr float kLowest = -std::numeric_limits<float>::infinity();
  Found& mine = found_[thread];
  const int64_t tiles = op.matrix->tiles(), grain = std::max<int64_t>(1, tiles / (8 * pool_.threads()));
  pool_.share(thread, tiles, grain, [&](int64_t begin, int64_t stop) {
    for (int i = 0; i < s.num_wanted; ++i) {
      float* logits = end.out + i * end.ld;
      if (const uint32_t* mask = s.mask_of(i)) forbid(logits, mask, begin * kTileRows, std::min(stop * kTileRows, vocab_));
      mine.floor[i] = std::max(mine.floor[i], sketch.floor(logits, lengths_[i], begin, stop));
    }
  });
  float floor[kSketchRows];
  std::fill_n(floor, kSketchRows, kLowest);
  for (const Found& found : found_)
    for (int i = 0; i < s.num_wanted; ++i) floor[i] = std::max(floor[i], found.floor[i]);

  const Matrix& w = *op.matrix;
  const int together = block_rows(op.packed, s.num_wanted);
  const Multiply exact{w.format(), w.data(), w.stride(), w.tiles(), w.inputs(), op.packed.form, at<uint8_t>(op.packed),
                       op.packed.form.block_bytes(op.packed.width, together), s.num_wanted, together, end};
  int64_t opened = 0;
  pool_.share(thread, tiles, grain, [&](int64_t begin, int64_t stop) {
    for (int64_t tile = begin; tile < stop; ++tile) {
      bool open = false;
      for (int i = 0; i < s.num_wanted && !open; ++i)
        open = sketch.reaches(end.out + i * end.ld, lengths_[i], floor[i], tile);
      if (!open) continue;
      ++opened;
      kernels_.multiply(exact, tile, tile + 1);
      const int64_t first = tile * kTileRows, count = std::min<int64_t>(kTileRows, vocab_ - first);
      for (int i = 0; i < s.num_wanted; ++i) {
        float* logits = end.out + i * end.ld + first;
        if (const uint32_t* mask = s.mask_of(i)) forbid(end.out + i * end.ld, mask, first, first + count);
        for (int64_t k = 0; k < count; ++k) {
          const int32_t token = int32_t(first + k);
          if (logits[k] > mine.best[i] || (logits[k] == mine.best[i] && token < mine.token[i])) {
            mine.best[i] = logits[k];
            mine.token[i] = token;
          }
        }
      }
    }
  });
  if (recording_) recorder->ring().detail({Recorder::now(), opened, kNoteOpened, 0});
  bool all = true;
  for (int i = 0; i < s.num_wanted; ++i) {
    float best = kLowest;
    int32_t token = -1;
    for (const Found& found : found_)
      if (found.best[i] > best || (found.best[i] == best && token >= 0 && found.token[i] >= 0 && found.token[i] < token)) {
        best = found.best[i];
        token = found.token[i];
      }
    all = all && token >= 0 && best < -kLowest;
    if (thread == 0) {
      s.out_tokens[i] = token;
      s.out_logprobs[i] = std::numeric_limits<float>::quiet_NaN();
    }
  }
  return all;
}

}  // namespace trimtab
