// The thread pool: workers that spin briefly between pieces of a step and sleep when the wait is long.
//
// A pool knows nothing of models. `run` gives every thread the same function; inside it threads share work
// through `claim` and meet at `barrier`. A thread that finishes its share takes from the others' tails, so a
// thread whose core is taken by another process delays the step by one claim, not by its whole share.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "crowding.h"

namespace trimtab {

class Pool {
 public:
  // `threads` includes the caller of `run`; `cpus` pins thread i to cpus[i] when not empty (the caller too).
  Pool(int threads, std::vector<int> cpus);
  ~Pool();
  Pool(const Pool&) = delete;

  int threads() const { return threads_; }

  // Calls job(thread) on every thread and returns when all have finished. One caller at a time.
  void run(const std::function<void(int)>& job);

  // The same for work that comes again and again, of one kind in about the same time: where waiting for each
  // other costs more than it brings, job(0) does it alone.
  void run_often(const std::function<void(int)>& job, int kind);

  // Runs body(begin, end) over [0, units), on all threads; only inside `run`, by every thread in the same
  // order. Ends with a barrier.
  template <class Body>
  void share(int thread, int64_t units, int64_t grain, const Body& body) {
    const int64_t grains = (units + grain - 1) / grain;
    for (int k = 0; k < threads_; ++k) {
      const int owner = thread + k < threads_ ? thread + k : thread + k - threads_;
      const int64_t first = grains * owner / threads_, last = grains * (owner + 1) / threads_;
      for (;;) {
        // Read before taking, so that finished shares are not written to by every thief.
        if (first + taken_[owner].value.load(std::memory_order_relaxed) >= last) break;
        const int64_t g = first + taken_[owner].value.fetch_add(1, std::memory_order_relaxed);
        if (g >= last) break;
        body(g * grain, (g + 1) * grain < units ? (g + 1) * grain : units);
      }
    }
    barrier(thread);
  }

  void barrier(int thread);

 private:
  struct alignas(64) Counter { std::atomic<int64_t> value{0}; };

  void work(int thread);
  // Whether it fell asleep.
  static bool wait_while(std::atomic<uint32_t>& word, uint32_t value, std::atomic<int>& sleepers, int spins);
  static void wake(std::atomic<uint32_t>& word, std::atomic<int>& sleepers);

  const int threads_;
  bool alone_ = false;  // in this run
  Crowding crowding_;
  const std::vector<int> cpus_;
  std::vector<std::thread> workers_;
  const std::function<void(int)>* job_ = nullptr;
  bool stopping_ = false;
  alignas(64) std::atomic<uint32_t> start_{0};
  std::atomic<int> start_sleepers_{0};
  alignas(64) std::atomic<uint32_t> generation_{0};
  std::atomic<int> barrier_sleepers_{0};
  std::atomic<int> stalls_{0};  // waits at a barrier in this run that ended asleep
  alignas(64) std::atomic<int> arrived_{0};
  std::unique_ptr<Counter[]> taken_;  // grains taken of each thread's share; cleared at every barrier
};

}  // namespace trimtab
