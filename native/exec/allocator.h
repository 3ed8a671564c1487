// Memory that lies where it will be used: pages come untouched, and each is touched first by the thread that a loop
// over the same range gives it to (arXiv 2206.06302).
#pragma once
#include <memory>
#include <new>
#include <type_traits>
#include <vector>

#include "exec/algorithms.h"
#include "exec/any.h"
#include "exec/memory.h"

namespace trimtab::exec {

// Touches every page of fresh memory, which stays zero.
inline void place(AnyExecutor on, const Memory& memory) {
  uint8_t* const data = memory.data();
  on.bulk([=](int, int64_t begin, int64_t end) {
    for (int64_t page = begin; page < end; ++page) *static_cast<volatile uint8_t*>(data + page * kPageBytes) = 0;
  }, memory.bytes() / kPageBytes);
}

// Allocates through one executor, and lets it construct what it will work on.
template <class T>
class Allocator {
 public:
  // `huge` asks for huge pages, for memory that is used whole.
  explicit Allocator(AnyExecutor on, bool huge = false) : on_(on), huge_(huge) {}

  // Untouched pages for n elements, aligned to at least 64 bytes. Throws std::bad_alloc.
  Memory allocate(int64_t n) const {
    static_assert(alignof(T) <= kPageBytes);
    if (n < 0 || n > INT64_MAX / int64_t(sizeof(T)) - kPageBytes) throw std::bad_alloc();
    return Memory(n * int64_t(sizeof(T)), huge_);
  }

  // Constructs T(arguments...) in all of [0, n), each by the thread whose part it is. If one throws, what has been
  // constructed is destroyed and the first exception comes back.
  template <class... Arguments>
  void bulk_construct(T* p, int64_t n, const Arguments&... arguments) const {
    struct alignas(kLineBytes) Done { int64_t begin = 0, end = 0; };
    std::vector<Done> done(on_.parts());
    try {
      by_lines<T>(on_, n, [&](int part, int64_t begin, int64_t end) {
        int64_t at = begin;
        try {
          for (; at < end; ++at) new (p + at) T(arguments...);
        } catch (...) {
          std::destroy(p + begin, p + at);
          throw;
        }
        done[part] = {begin, end};
      });
    } catch (...) {
      for (const Done& each : done) std::destroy(p + each.begin, p + each.end);
      throw;
    }
  }

  void bulk_destroy(T* p, int64_t n) const {
    by_lines<T>(on_, n, [&](int, int64_t begin, int64_t end) { std::destroy(p + begin, p + end); });
  }

 private:
  AnyExecutor on_;
  bool huge_;
};

// n elements in memory of their own, constructed and destroyed through an executor that outlives them.
template <class T>
class Array {
 public:
  template <class... Arguments>
  Array(const Allocator<T>& allocator, int64_t n, const Arguments&... arguments)
      : allocator_(allocator), memory_(allocator.allocate(n)), n_(n) {
    allocator_.bulk_construct(data(), n, arguments...);
  }
  ~Array() {
    if constexpr (!std::is_trivially_destructible_v<T>) allocator_.bulk_destroy(data(), n_);
  }
  Array(const Array&) = delete;

  T* data() const { return reinterpret_cast<T*>(memory_.data()); }
  int64_t size() const { return n_; }

 private:
  Allocator<T> allocator_;
  Memory memory_;
  int64_t n_;
};

}  // namespace trimtab::exec
