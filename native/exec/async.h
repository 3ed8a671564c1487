// std::async behind the interface of the fork-join executor: the rival in `trimtab bench stream`, never shipped.
//
// Every stage of a step is a parallel region, and every region asks the library for its threads: the way that
// std::async is written.
#pragma once
#include <barrier>
#include <cstdint>
#include <future>
#include <stdexcept>
#include <vector>

#include "exec/piece.h"
#include "recorder.h"

namespace trimtab::exec {

class Async {
 public:
  explicit Async(int threads, std::vector<int> = {}) : threads_(threads), meeting_(checked(threads)) {}

  int threads() const { return threads_; }
  int parts() const { return threads_; }
  int pinned() const { return 0; }

  template <class F>
  void bulk(const F& f, int64_t n) {
    FirstError error;
    run([&](int part) {
      const Piece mine = piece(n, part, threads_);
      if (mine.begin < mine.end) error.guard([&] { f(part, mine.begin, mine.end); });
    });
    error.rethrow();
  }

  template <class Job>
  void run(const Job& job) {
    std::vector<std::future<void>> others;
    for (int i = 1; i < threads_; ++i) others.push_back(std::async(std::launch::async, [&job, i] { job(i); }));
    job(0);
    for (auto& other : others) other.get();
  }

  template <class Job>
  void run_stages(int stages, int, const Job& job) {
    for (int k = 0; k < stages; ++k) run([&](int thread) { job(thread, k, k + 1); });
  }

  template <class Body>
  void share(int thread, int64_t units, int64_t grain, const Body& body) {
    const Piece mine = piece((units + grain - 1) / grain, thread, threads_);
    for (int64_t g = mine.begin; g < mine.end; ++g) body(g * grain, (g + 1) * grain < units ? (g + 1) * grain : units);
    barrier(thread);
  }

  void barrier(int) { meeting_.arrive_and_wait(); }

  Recorder* recorder = nullptr;  // its waits are the library's, and not recorded

 private:
  static int checked(int threads) {
    if (threads < 1 || threads > 1024) throw std::invalid_argument("threads must lie between 1 and 1024");
    return threads;
  }

  const int threads_;
  std::barrier<> meeting_;
};

}  // namespace trimtab::exec
