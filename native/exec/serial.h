// The calling thread alone, in as many pieces as asked for; and executors made of others.
#pragma once
#include "exec/any.h"
#include "exec/piece.h"

namespace trimtab::exec {

class Serial {
 public:
  explicit Serial(int parts = 1) : parts_(parts) {}

  int parts() const { return parts_; }

  template <class F>
  void bulk(const F& f, int64_t n) const {
    for (int part = 0; part < parts_; ++part) {
      const Piece mine = piece(n, part, parts_);
      if (mine.begin < mine.end) f(part, mine.begin, mine.end);
    }
  }

 private:
  int parts_;
};

// Every piece `times` times before the threads meet: for ranges so small that the meeting would be most of the time.
class Repeated {
 public:
  Repeated(AnyExecutor on, int64_t times) : on_(on), times_(times) {}

  int parts() const { return on_.parts(); }

  template <class F>
  void bulk(const F& f, int64_t n) const {
    on_.bulk([&](int part, int64_t begin, int64_t end) {
      for (int64_t i = 0; i < times_; ++i) {
        f(part, begin, end);
        asm volatile("" ::: "memory");  // as far as the compiler knows, somebody looked at the result
      }
    }, n);
  }

 private:
  AnyExecutor on_;
  int64_t times_;
};

}  // namespace trimtab::exec
