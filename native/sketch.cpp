#include "sketch.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "exec/rows.h"

namespace trimtab {
namespace {

constexpr Format kCopy{Format::grouped, 4, 32, false};

// A logit of the copy errs by a sum of one small rounding error per input, each times an activation: near enough
// to normal, with deviation error * length. Over 74 million logits of the default model the largest was 5.7
// deviations, and a token is missed only if it, or the one that sets the floor, errs by more than this many:
// once in 5e8 tokens.
constexpr float kDeviations = 6;

}  // namespace

Sketch::Sketch(Pool& pool, const Kernels& kernels, const Matrix& exact)
    : matrix_(kCopy, exact.rows(), exact.inputs(), false),
      errors_(round_up(exact.rows(), kTileRows), std::numeric_limits<float>::infinity()) {
  matrix_.place(pool);
  std::vector<std::vector<float>> rows(pool.parts(), std::vector<float>(exact.inputs()));
  exec::for_rows(pool, exact.rows(), matrix_.stride() / kTileRows, kTileRows, [&](int part, int64_t begin, int64_t end) {
    std::vector<float>& row = rows[part];
    for (int64_t r = begin; r < end; ++r) {
      exact.unpack(kernels, r, row.data());
      errors_[r] = std::sqrt(matrix_.put(r, row.data()) / float(row.size()));
    }
  });
}

float Sketch::floor(const float* logits, float length, int64_t tile_begin, int64_t tile_end) const {
  // A maximum for each lane, so that the compiler may take them together.
  float highest[kTileRows];
  std::fill_n(highest, kTileRows, -std::numeric_limits<float>::infinity());
  const float slack = kDeviations * length;
  for (int64_t first = tile_begin * kTileRows; first < tile_end * kTileRows; first += kTileRows)
    for (int lane = 0; lane < kTileRows; ++lane) {
      const float least = logits[first + lane] - slack * errors_[first + lane];
      highest[lane] = least > highest[lane] ? least : highest[lane];
    }
  return *std::max_element(highest, highest + kTileRows);
}

bool Sketch::reaches(const float* logits, float length, float floor, int64_t tile) const {
  const float slack = kDeviations * length;
  int reaching = 0;
  for (int lane = 0; lane < kTileRows; ++lane) {
    const int64_t token = tile * kTileRows + lane;
    reaching |= logits[token] + slack * errors_[token] >= floor;
  }
  return reaching != 0;
}

int64_t Sketch::bytes_for(int64_t rows, int64_t inputs) {
  return round_up(Matrix::bytes_for(kCopy, rows, inputs, false), 4096) + round_up(rows, kTileRows) * int64_t(sizeof(float));
}

}  // namespace trimtab
