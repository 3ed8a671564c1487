// How much of a range a thread takes at a time.
//
// Without a word every part is one piece, so that an element is always the same thread's: for memory. With `guided`
// a thread takes grains, its own share first and then from the others' tails: for work that may be held up.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>

#include "exec/piece.h"

namespace trimtab::exec {

// An executor over another one: every part is called with one grain at a time, in no order.
template <class Executor>
class Guided {
 public:
  Guided(Executor& on, int64_t grain) : on_(on), grain_(grain > 0 ? grain : 1) {}

  int parts() const { return on_.parts(); }

  template <class F>
  void bulk(const F& f, int64_t n) {
    const int parts = on_.parts();
    const int64_t grains = (n + grain_ - 1) / grain_;
    const std::unique_ptr<Counter[]> taken(new Counter[parts]);
    on_.bulk([&](int, int64_t first, int64_t last) {
      // One index a part; an executor of fewer threads calls a thread with several.
      for (int64_t part = first; part < last; ++part) {
        for (int k = 0; k < parts; ++k) {
          const int owner = int((part + k) % parts);
          const Piece share = piece(grains, owner, parts);
          for (;;) {
            const int64_t g = share.begin + taken[owner].value.fetch_add(1, std::memory_order_relaxed);
            if (g >= share.end) break;
            f(int(part), g * grain_, (g + 1) * grain_ < n ? (g + 1) * grain_ : n);
          }
        }
      }
    }, parts);
  }

 private:
  struct alignas(64) Counter { std::atomic<int64_t> value{0}; };

  Executor& on_;
  const int64_t grain_;
};

template <class Executor>
Guided<Executor> guided(Executor& on, int64_t grain) { return {on, grain}; }

}  // namespace trimtab::exec
