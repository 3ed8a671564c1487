// How a range is cut, the same everywhere: memory that one loop has touched first lies beside the thread that the next
// loop gives the same elements to.
#pragma once
#include <atomic>
#include <cstdint>
#include <exception>

namespace trimtab::exec {

struct Piece { int64_t begin, end; };

// Piece `part` of `parts` contiguous ones of [0, n) that differ by one at most.
inline Piece piece(int64_t n, int part, int parts) { return {n * part / parts, n * (part + 1) / parts}; }

// What went wrong first among threads that end together.
class FirstError {
 public:
  template <class F>
  void guard(const F& f) {
    try {
      f();
    } catch (...) {
      if (!taken_.test_and_set()) error_ = std::current_exception();
    }
  }
  // Once all have ended.
  void rethrow() {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::atomic_flag taken_ = ATOMIC_FLAG_INIT;
  std::exception_ptr error_;
};

}  // namespace trimtab::exec
