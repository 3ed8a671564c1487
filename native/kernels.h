// The table of kernels that every instruction set fills in. The program calls through it and knows no lanes.
#pragma once
#include "exec/any.h"
#include "layout.h"

namespace trimtab {

// See stream/pass.h.
enum class Pattern : int;
enum class Number : int;
struct StreamArrays;

// What becomes of a multiply's results.
struct Epilogue {
  enum Activation : uint8_t { silu, gelu_tanh };
  bool gated = false;           // tiles come in (gate, up) pairs: act(gate) * up
  Activation activation = silu;
  float* out = nullptr;         // (rows, ld) plain
  int64_t ld = 0;
  const float* bias = nullptr;  // (outputs padded to a tile) or null
  const float* add = nullptr;   // (rows, ld) or null; may be `out` itself
  uint8_t* packed = nullptr;    // gated only: write this form instead of `out`
  Form form;
  int packed_rows = 0;          // rows of a block of `packed`
};

// How a multiply is cut into pieces. Time depends on it, results do not. Zero: what the kernels would choose.
struct Blocking {
  int rows = 0;             // rows of a block of activations, at most `max_rows`
  int tiles = 0;            // tiles computed together, so that they share each activation
  int64_t strip_bytes = 0;  // weights that every block of rows passes over before the next strip begins
  int64_t grain = 0;        // units that a thread takes at once
  bool operator==(const Blocking&) const = default;
};

// Sums of a row of one tile that a multiply can keep in registers at once, where `max_rows` of any fit.
constexpr int sums_of(Form::Kind form, int max_rows) {
  return form == Form::token || form == Form::half ? 2 * max_rows : max_rows;
}

constexpr int64_t kStripBytes = 256 << 10;  // stays in the second-level cache

struct Multiply {
  Format format;
  const uint8_t* weights;
  int64_t tile_stride;  // bytes of a row tile
  int64_t tiles;        // row tiles of the whole matrix
  int64_t inputs;
  Form form;            // of the activations
  const uint8_t* x;     // packed activations
  int64_t block_stride; // bytes of a block of activations
  int rows;             // rows that count
  int block_rows;       // rows of a block, 1..max_rows
  Epilogue end;
  int tiles_together = 0;  // see Blocking
  int64_t strip_bytes = 0;
};

struct Attend {
  const float* q;       // (rows, ld): the step's queries
  int64_t ld;
  float* out;           // (rows, out_ld)
  int64_t out_ld;
  const uint8_t* arena;
  KvLayout kv;
  int layer, heads;
  float scale, softcap;
  int window;           // 0: everything before
  const int32_t* positions;  // of the step's rows
};

struct RopeStore {
  const float* qkv;     // (rows, ld): queries, keys, values
  int64_t ld;
  float* q;             // (rows, q_ld)
  int64_t q_ld;
  const float* angles;  // (rows, rope_dim): cos, sin halves
  int rope_dim;
  const float *q_norm, *k_norm;  // (head_dim) or null
  float eps;
  uint8_t* arena;
  KvLayout kv;
  int layer, heads;
};

struct Kernels {
  const char* name;
  int max_rows;   // most rows of a block
  int many_rows;  // rows of a block at which a multiply is fastest when it has several blocks
  // Row tiles [tile_begin, tile_end); with a gate, in units of 32 outputs (two pairs of tiles).
  void (*multiply)(const Multiply&, int64_t begin, int64_t end);
  // One row of a plain matrix into its place in a packed block (row counts within the step).
  void (*pack_row)(const float* x, int64_t inputs, Form, int row, int block_rows, uint8_t* packed);
  // RMS norm of one row into `out` (plain, padded with zeros to a group).
  void (*norm_row)(const float* x, const float* weight, float eps, int64_t width, float* out);
  // One KV head of one row: rotate its queries and key, write key and value into the page.
  void (*rope_store)(const RopeStore&, int row, int kv_head, int32_t page, int slot);
  // Up to `max_rows` queries [first, first + count) of one span and KV head, counted row by row.
  void (*attend)(const Attend&, int span_row, int kv_head, int first, int count, const int32_t* pages);
  void (*add_row)(float* out, const float* a, const float* b, int64_t width);
  void (*unpack_row)(Format, const uint8_t* tile, int lane, int64_t inputs, float* out);
  void (*softcap_row)(float* x, int64_t width, float cap);
  // One pass of STREAM; the sum where the pattern is one. See isa/stream.h for the names of the stores.
  double (*stream_pass)(Pattern, Number, const StreamArrays&, exec::AnyExecutor, bool streaming);
  const char* const* stores;
};

const Kernels* portable_kernels();
const Kernels* avx2_kernels();
const Kernels* avx512_kernels();

// The best set this processor runs, or the one asked for; throws std::invalid_argument with the choices.
const Kernels* choose_kernels(const char* wanted);

}  // namespace trimtab
