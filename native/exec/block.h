// Several targets as one executor: each gets a contiguous block of a range and cuts it among its own threads
// (arXiv 2206.06302).
//
// All blocks are started before any is waited for; one after the other, two memories would be no faster than one.
#pragma once
#include <functional>
#include <future>
#include <memory>
#include <vector>

#include "exec/fork_join.h"
#include "exec/target.h"

namespace trimtab::exec {

class Block {
 public:
  // At most `threads` in all, dealt out evenly, and on no target more than it has processors; 0 for all of them. `pin`
  // ties each to its processor, except the caller, who is the first thread of the first target.
  explicit Block(std::vector<Target> targets, int threads = 0, bool pin = true);
  ~Block();

  int parts() const { return first_part_.back(); }
  int targets() const { return int(targets_.size()); }
  int pinned() const;
  // The target whose thread has this part of every range.
  int target_of(int part) const;

  // f(part, begin, end) on every thread of every target. The first exception comes back when all have ended.
  template <class F>
  void bulk(const F& f, int64_t n) {
    FirstError error;
    leaders_.run([&](int target) {
      const Piece block = piece(n, target, targets());
      teams_[target]->run([&](int thread) {
        const Piece mine = piece(block.end - block.begin, thread, teams_[target]->threads());
        if (mine.begin < mine.end)
          error.guard([&] { f(first_part_[target] + thread, block.begin + mine.begin, block.begin + mine.end); });
      });
    });
    error.rethrow();
  }

  // f() on one thread of the next target in turn; the future holds what it returns or throws.
  template <class F>
  auto async(F f) -> std::future<decltype(f())> {
    auto task = std::make_shared<std::packaged_task<decltype(f())()>>(std::move(f));
    auto future = task->get_future();
    post([task] { (*task)(); });
    return future;
  }
  // The same for work whose end nobody awaits; it must not throw. What is posted has run when the executor is gone.
  void post(std::function<void()> work);

 private:
  struct Mailbox;

  std::vector<Target> targets_;
  std::vector<int> first_part_;  // of each target; the last entry counts them all
  std::vector<std::unique_ptr<ForkJoin>> teams_;
  ForkJoin leaders_;  // one thread a target: the first of its team
  std::vector<std::unique_ptr<Mailbox>> mailboxes_;
  std::atomic<uint32_t> turn_{0};
};

}  // namespace trimtab::exec
