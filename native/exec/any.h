// Any executor behind one pointer: code that is compiled once, or for several instruction sets, runs on all of them.
#pragma once
#include <cstdint>

namespace trimtab::exec {

// f(part, begin, end) by its address.
struct PieceCall {
  const void* self;
  void (*function)(const void* self, int part, int64_t begin, int64_t end);
  [[gnu::always_inline]] void operator()(int part, int64_t begin, int64_t end) const { function(self, part, begin, end); }
};

// Refers to an executor and does not own it. What every executor has: `parts()`, and `bulk(f, n)`, which calls
// f(part, begin, end) for contiguous pieces of [0, n), returns when all have ended, and throws their first exception.
class AnyExecutor {
 public:
  template <class Executor>
  AnyExecutor(Executor& on)
      : self_(&on), parts_(on.parts()),
        bulk_([](void* self, PieceCall f, int64_t n) { static_cast<Executor*>(self)->bulk(f, n); }) {}
  AnyExecutor(AnyExecutor& other) = default;
  AnyExecutor(const AnyExecutor& other) = default;

  [[gnu::always_inline]] int parts() const { return parts_; }

  template <class F>
  void bulk(const F& f, int64_t n) const {
    bulk_(self_, {&f, [](const void* self, int part, int64_t begin, int64_t end) {
                   (*static_cast<const F*>(self))(part, begin, end);
                 }}, n);
  }

 private:
  void* self_;
  int parts_;
  void (*bulk_)(void* self, PieceCall f, int64_t n);
};

}  // namespace trimtab::exec
