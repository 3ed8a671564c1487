// A weight matrix in the packed layout of layout.h, and how checkpoint rows get into it.
#pragma once
#include <string>

#include "ggml.h"
#include "exec/memory.h"
#include "exec/pool.h"
#include "kernels.h"

namespace trimtab {

// "bf16", "int8", or "q4" / "q8" with group ("/16") and minima ("+min"), as in "q4+min" or "q8/16".
Format parse_format(const std::string& name);
std::string format_name(Format);
// The format that holds a checkpoint type without loss (floats: bf16).
Format natural_format(GgmlType);

class Matrix {
 public:
  Matrix(Format, int64_t rows, int64_t inputs, bool gated);

  // Rows `order` (or start..start+count) of a checkpoint tensor become rows row0.. of this matrix. With
  // gated, `half` 0 fills gate tiles, 1 up tiles. Quantized sources go in exactly when the format can hold
  // them, and are requantized from floats otherwise.
  void fill(Pool&, int64_t row0, int half, GgmlType, const uint8_t* data, const int64_t* order, int64_t start,
            int64_t count);

  // Puts fresh memory beside the threads that will multiply with it; `fill` does so by itself. What is there stays.
  void place(Pool&);

  // One row from floats; rows of a tile must not be put by two threads at once. Of a grouped format, the sum of the
  // squares of what rounding lost.
  // Call `place` first.
  float put(int64_t row, const float* values) {
    return pack_floats(memory_.data() + tile_of(row, 0) * stride_, int(row % kTileRows), values);
  }

  const uint8_t* tile(int64_t row) const { return memory_.data() + tile_of(row, 0) * stride_; }
  void unpack(const Kernels&, int64_t row, float* out) const;

  Format format() const { return format_; }
  int64_t rows() const { return rows_; }
  int64_t inputs() const { return inputs_; }
  int64_t tiles() const { return tiles_; }
  int64_t stride() const { return stride_; }
  bool gated() const { return gated_; }
  int64_t bytes() const { return memory_.bytes(); }
  const uint8_t* data() const { return memory_.data(); }

  static int64_t bytes_for(Format, int64_t rows, int64_t inputs, bool gated);

 private:
  int64_t tile_of(int64_t row, int half) const {
    return gated_ ? row / kTileRows * 2 + half : row / kTileRows;
  }
  void pack_groups(uint8_t* tile, int lane, GgmlType, const uint8_t* row) const;
  float pack_floats(uint8_t* tile, int lane, const float* row) const;

  Format format_;
  int64_t rows_, inputs_, tiles_, stride_;
  bool gated_, placed_ = false;
  exec::Memory memory_;
};

}  // namespace trimtab
