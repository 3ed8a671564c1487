// Loops over an executor: the same function objects on any of them (arXiv 2206.06302).
//
// A range is cut at cache lines, so that no two threads write one, and always alike: memory that `fill` has touched
// first lies beside the thread that `transform` gives the same elements to. A function object that takes a register
// of numbers gets registers; any other one gets numbers.
#pragma once
#include "exec/number.h"
#if !defined(__CUDACC__)
#include "exec/lanes.h"
#endif

namespace trimtab::exec {

constexpr int64_t kLineBytes = 64;

inline namespace TRIMTAB_ISA {

#if !defined(__CUDACC__)

// ---- one piece, in the calling thread ----------------------------------------------------------------------------

template <class T, class F>
constexpr bool kTakesLanes = false;
template <class T, class F>
  requires requires(const F& f, typename Lanes<T>::Wide x) { f(x); }
constexpr bool kTakesLanes<T, F> = true;
template <class T, class F>
  requires requires(const F& f, typename Lanes<T>::Wide x) { f(x, x); }
constexpr bool kTakesLanes<T, F> = true;

// Registers from the first aligned output on, single numbers before and after. `lanes(i)` and `one(i)` give results.
template <Store kStore, class T, class ByLanes, class ByOne>
inline void write_all(T* out, int64_t n, const ByLanes& lanes, const ByOne& one) {
  constexpr int kCount = Lanes<T>::count;
  int64_t i = 0;
  for (; i < n && (uintptr_t)(out + i) % kLaneBytes; ++i) out[i] = one(i);
  for (; i + 4 * kCount <= n; i += 4 * kCount) {
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) Lanes<T>::template put<kStore>(out + i + k * kCount, lanes(i + k * kCount));
  }
  for (; i < n; ++i) out[i] = one(i);
#if defined(__x86_64__)
  if constexpr (kStore == Store::streaming) _mm_sfence();
#endif
}

template <class T, class ByLanes, class ByOne>
inline void write_all(Store store, T* out, int64_t n, const ByLanes& lanes, const ByOne& one) {
  if (kStreams && store == Store::streaming) write_all<Store::streaming>(out, n, lanes, one);
  else write_all<Store::plain>(out, n, lanes, one);
}

// Registers are summed in eight chains and go into a double every 64 KiB, so that each float has few additions.
template <class T>
inline double sum_all(const T* in, int64_t n) {
  using L = Lanes<T>;
  constexpr int kCount = L::count;
  constexpr int64_t kBlock = 65536 / int64_t(sizeof(T));
  double sum = 0;
  int64_t i = 0;
  while (i + 8 * kCount <= n) {
    const int64_t until = i + kBlock < n ? i + kBlock : n;
    typename L::Wide chains[8];
#pragma GCC unroll 8
    for (auto& chain : chains) chain = L::set(0);
    for (; i + 8 * kCount <= until; i += 8 * kCount) {
#pragma GCC unroll 8
      for (int k = 0; k < 8; ++k) chains[k] = chains[k] + L::load(in + i + k * kCount);
    }
#pragma GCC unroll 8
    for (int k = 1; k < 8; ++k) chains[0] = chains[0] + chains[k];
    sum += L::total(chains[0]);
  }
  for (; i < n; ++i) sum += double(widen(in[i]));
  return sum;
}

#endif

struct Partials {
  struct alignas(kLineBytes) Partial { double value = 0; };
  Partial* const of;
  explicit Partials(int parts) : of(new Partial[parts]) {}
  ~Partials() { delete[] of; }
  Partials(const Partials&) = delete;
};

// ---- on an executor ----------------------------------------------------------------------------------------------

// f(part, begin, end) over [0, n), cut where cache lines of T begin.
template <class T, class Executor, class F>
inline void by_lines(Executor& on, int64_t n, const F& f) {
  constexpr int64_t kEach = sizeof(T) < kLineBytes ? kLineBytes / int64_t(sizeof(T)) : 1;
  on.bulk([&](int part, int64_t begin, int64_t end) {
    f(part, begin * kEach, end * kEach < n ? end * kEach : n);
  }, (n + kEach - 1) / kEach);
}

// f(i) for every i of [0, n).
template <class Executor, class F>
void for_each_n(Executor& on, int64_t n, const F& f) {
  if constexpr (requires { on.for_each_n(n, f); }) {
    on.for_each_n(n, f);
  } else {
    on.bulk([&](int, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) f(i);
    }, n);
  }
}

// out[i] = f(in[i]); `out` may be `in`.
template <class Executor, class T, class F>
void transform(Executor& on, const T* in, T* out, int64_t n, const F& f, Store store = Store::plain) {
  if constexpr (requires { on.transform(in, out, n, f); }) {
    on.transform(in, out, n, f);
  } else {
#if !defined(__CUDACC__)
    by_lines<T>(on, n, [=](int, int64_t begin, int64_t end) {
      const T* from = in + begin;
      auto one = [=](int64_t i) { return narrow<T>(f(widen(from[i]))); };
      if constexpr (kTakesLanes<T, F>) {
        write_all(store, out + begin, end - begin, [=](int64_t i) { return f(Lanes<T>::load(from + i)); }, one);
      } else {
        for (int64_t i = 0; i < end - begin; ++i) out[begin + i] = one(i);
      }
    });
#endif
  }
}

// out[i] = f(a[i], b[i]); `out` may be either.
template <class Executor, class T, class F>
void transform(Executor& on, const T* a, const T* b, T* out, int64_t n, const F& f, Store store = Store::plain) {
  if constexpr (requires { on.transform(a, b, out, n, f); }) {
    on.transform(a, b, out, n, f);
  } else {
#if !defined(__CUDACC__)
    by_lines<T>(on, n, [=](int, int64_t begin, int64_t end) {
      const T *x = a + begin, *y = b + begin;
      auto one = [=](int64_t i) { return narrow<T>(f(widen(x[i]), widen(y[i]))); };
      if constexpr (kTakesLanes<T, F>) {
        write_all(store, out + begin, end - begin,
                  [=](int64_t i) { return f(Lanes<T>::load(x + i), Lanes<T>::load(y + i)); }, one);
      } else {
        for (int64_t i = 0; i < end - begin; ++i) out[begin + i] = one(i);
      }
    });
#endif
  }
}

template <class Executor, class T>
void copy(Executor& on, const T* in, T* out, int64_t n, Store store = Store::plain) {
  transform(on, in, out, n, Identity(), store);
}

template <class Executor, class T>
void fill(Executor& on, T* out, int64_t n, T value, Store store = Store::plain) {
  if constexpr (requires { on.fill(out, n, value); }) {
    on.fill(out, n, value);
  } else {
#if !defined(__CUDACC__)
    by_lines<T>(on, n, [=](int, int64_t begin, int64_t end) {
      const auto wide = Lanes<T>::set(widen(value));
      write_all(store, out + begin, end - begin, [=](int64_t) { return wide; }, [=](int64_t) { return value; });
    });
#endif
  }
}

// The sum of all numbers; parts are added up in their order, so it is the same on every run.
template <class Executor, class T>
double reduce(Executor& on, const T* in, int64_t n) {
  if constexpr (requires { on.reduce(in, n); }) {
    return on.reduce(in, n);
  } else {
    double sum = 0;
#if !defined(__CUDACC__)
    const Partials partials(on.parts());
    by_lines<T>(on, n, [in, &partials](int part, int64_t begin, int64_t end) {
      partials.of[part].value += sum_all(in + begin, end - begin);
    });
    for (int part = 0; part < on.parts(); ++part) sum += partials.of[part].value;
#endif
    return sum;
  }
}

}  // namespace TRIMTAB_ISA
}  // namespace trimtab::exec
