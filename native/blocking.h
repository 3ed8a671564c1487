// How a multiply is cut into pieces, where nothing was chosen for it and where something was.
//
// A choice is made per class of row counts, because a step of one row and one of a thousand want different things.
#pragma once
#include <array>

#include "kernels.h"

namespace trimtab {

// Most rows of each class; the last class has no end.
constexpr int kRowClasses[] = {1, 2, 4, 8, 12, 24, 48, 128};
constexpr int kNumRowClasses = int(sizeof kRowClasses / sizeof *kRowClasses) + 1;

constexpr int row_class(int rows) {
  int k = 0;
  while (k < kNumRowClasses - 1 && rows > kRowClasses[k]) ++k;
  return k;
}

using Blockings = std::array<Blocking, kNumRowClasses>;

// Rows that a block of activations holds when a multiply has `rows`: as few blocks as allowed, filled evenly.
int block_rows_of(const Kernels&, int most, int rows);

// How many units, tiles or groups of 32 gated outputs, a thread takes at once.
int64_t grain_of(const Kernels&, int64_t chosen, int rows, int64_t units, int threads);

}  // namespace trimtab
