// A 4-bit copy of the vocabulary projection: it tells which tokens can still have the highest logit.
//
// The projection holds a fifth to a half of the bytes that a small model reads for a token, and greedy decoding
// asks it for one token only. The copy is read whole, at half the bytes; then the exact matrix is read where a
// token could still win. The token is the exact matrix's own.
#pragma once
#include <vector>

#include "matrix.h"

namespace trimtab {

class Sketch {
 public:
  // `exact` must be `sketchable` and outlive nothing: it is read here only.
  Sketch(Pool&, const Kernels&, const Matrix& exact);

  // Whether a matrix's activations are rounded as the copy's are, so that only the weights differ.
  static bool sketchable(Format exact) { return exact.kind == Format::grouped && exact.bits == 8; }

  const Matrix& matrix() const { return matrix_; }
  int64_t bytes() const { return matrix_.bytes() + int64_t(errors_.size() * sizeof(float)); }

  // The highest logit that a token of these tiles has at least. `length`: Euclidean norm of the activations.
  float floor(const float* logits, float length, int64_t tile_begin, int64_t tile_end) const;
  // Whether a token of this tile may reach `floor`.
  bool reaches(const float* logits, float length, float floor, int64_t tile) const;

  static int64_t bytes_for(int64_t rows, int64_t inputs);

 private:
  Matrix matrix_;
  std::vector<float> errors_;  // of a row: root mean square over the inputs of (exact - copy); padded to a tile
};

}  // namespace trimtab
