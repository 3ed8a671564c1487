// STREAM: what one pass does to three arrays, written once over the algorithms for every executor and number type.
#pragma once
#include "exec/algorithms.h"
#include "exec/any.h"

namespace trimtab {

// In STREAM's order, each on what the ones before left; then two that STREAM does not have: reading alone, and
// writing alone.
enum class Pattern : int { copy, scale, add, triad, sum, fill };
constexpr int kPatterns = 6;

enum class Number : int { f64, f32, bf16 };

constexpr double kScalar = 3, kFilled = 0.5;

// Arrays of `n` numbers; those that a pattern does not touch may be null.
struct StreamArrays {
  void *a, *b, *c;
  int64_t n;
};

namespace exec {
inline namespace TRIMTAB_ISA {

// One pass; the sum for Pattern::sum, 0 for the others.
template <class T, class Executor>
double stream_pass(Pattern pattern, const StreamArrays& arrays, Executor& on, Store store) {
  T *const a = static_cast<T*>(arrays.a), *const b = static_cast<T*>(arrays.b), *const c = static_cast<T*>(arrays.c);
  using S = decltype(widen(T{}));
  const S s = S(kScalar);
  switch (pattern) {
    case Pattern::copy: copy(on, a, c, arrays.n, store); break;
    case Pattern::scale: transform(on, c, b, arrays.n, Scaled<S>{s}, store); break;
    case Pattern::add: transform(on, a, b, c, arrays.n, Sum(), store); break;
    case Pattern::triad: transform(on, b, c, a, arrays.n, Triad<S>{s}, store); break;
    case Pattern::sum: return reduce(on, a, arrays.n);
    case Pattern::fill: fill(on, c, arrays.n, narrow<T>(S(kFilled)), store); break;
  }
  return 0;
}

}  // namespace TRIMTAB_ISA
}  // namespace exec
}  // namespace trimtab
