// Rows of a matrix over an executor.
#pragma once
#include <algorithm>

#include "exec/chunk.h"

namespace trimtab::exec {

// f(part, begin, end) for blocks of rows that begin at multiples of `multiple`, each of at least `least_bytes` where
// there are that many: small enough that a held-up thread's rows are taken over, large enough to stream.
template <class Executor, class F>
void for_rows(Executor& on, int64_t rows, int64_t row_bytes, int64_t multiple, const F& f, int64_t least_bytes = 32 << 10) {
  const int64_t least = least_bytes / std::max<int64_t>(1, row_bytes), fair = rows / on.parts();
  const int64_t grain = std::max<int64_t>(1, std::min(least, fair));
  guided(on, (grain + multiple - 1) / multiple * multiple).bulk(f, rows);
}

}  // namespace trimtab::exec
