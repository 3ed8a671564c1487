#include "blocking.h"

#include <algorithm>

namespace trimtab {

int block_rows_of(const Kernels& kernels, int most, int rows) {
  if (rows <= 0) return 1;
  if (most <= 0 || most > kernels.max_rows) most = rows > kernels.max_rows ? kernels.many_rows : kernels.max_rows;
  const int blocks = (rows + most - 1) / most;
  return (rows + blocks - 1) / blocks;
}

int64_t grain_of(const Kernels& kernels, int64_t chosen, int rows, int64_t units, int threads) {
  if (chosen > 0) return chosen;
  // Coarse enough to stream when a tile is all memory time, a tile at a time when it is all arithmetic: the
  // threads then finish within a tile of each other, and a stalled thread's share can be taken over.
  return rows >= kernels.max_rows ? 1 : std::max<int64_t>(1, units / (8 * threads));
}

}  // namespace trimtab
