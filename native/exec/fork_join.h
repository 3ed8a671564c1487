// The fork-join executor: threads that live as long as it, spin briefly between pieces of work and sleep when the
// wait is long (executors and their partition: arXiv 2206.06302).
//
// It knows nothing of models. `bulk` cuts a range into one piece a thread. `run` gives every thread the same
// function; inside it threads share work through `share` and meet at `barrier`. There a thread that finishes its
// share takes from the others' tails, so a thread whose core is taken by another process delays the step by one
// claim, not by its whole share.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "exec/crowding.h"
#include "exec/piece.h"
#include "recorder.h"

namespace trimtab::exec {

class ForkJoin {
 public:
  // `threads` includes the caller; `cpus` pins thread i > 0 to cpus[i] when not empty.
  explicit ForkJoin(int threads, std::vector<int> cpus = {});
  ~ForkJoin();
  ForkJoin(const ForkJoin&) = delete;

  int threads() const { return threads_; }
  int parts() const { return threads_; }
  // Threads that the system let be bound to their processor.
  int pinned() const { return pinned_.load(std::memory_order_relaxed); }

  // f(part, begin, end) for each piece of [0, n), each on a thread of its own; the first exception comes back when
  // all have ended. One caller at a time, as for everything below.
  template <class F>
  void bulk(const F& f, int64_t n) {
    FirstError error;
    run([&](int part) {
      const Piece mine = piece(n, part, threads_);
      if (mine.begin < mine.end) error.guard([&] { f(part, mine.begin, mine.end); });
    });
    error.rethrow();
  }

  // Calls job(thread) on every thread and returns when all have finished. It must not throw.
  template <class Job>
  void run(const Job& job) {
    if (threads_ == 1) return job(0);
    run_all({&job, [](const void* self, int thread) { (*static_cast<const Job*>(self))(thread); }});
  }

  // Work in stages that comes again and again, of one kind in about the same time. Every thread calls
  // job(thread, first, last) for stages that follow each other, and each stage ends with `share` or `barrier`.
  // Where waiting for each other costs more than it brings, thread 0 does it alone.
  template <class Job>
  void run_stages(int stages, int kind, const Job& job) {
    if (threads_ == 1) return job(0, 0, stages);
    auto all = [&](int thread) { job(thread, 0, stages); };
    run_often({&all, [](const void* self, int thread) { (*static_cast<const decltype(all)*>(self))(thread); }}, kind);
  }

  // Runs body(begin, end) over [0, units), on all threads; only inside `run`, by every thread in the same
  // order. Ends with a barrier.
  template <class Body>
  void share(int thread, int64_t units, int64_t grain, const Body& body) {
    const int64_t grains = (units + grain - 1) / grain;
    for (int k = 0; k < threads_; ++k) {
      const int owner = thread + k < threads_ ? thread + k : thread + k - threads_;
      const Piece part = piece(grains, owner, threads_);
      for (;;) {
        // Read before taking, so that finished shares are not written to by every thief.
        if (part.begin + taken_[owner].value.load(std::memory_order_relaxed) >= part.end) break;
        const int64_t g = part.begin + taken_[owner].value.fetch_add(1, std::memory_order_relaxed);
        if (g >= part.end) break;
        body(g * grain, (g + 1) * grain < units ? (g + 1) * grain : units);
      }
    }
    barrier(thread);
  }

  void barrier(int thread);

  Recorder* recorder = nullptr;  // of waits at barriers

 private:
  struct alignas(64) Counter { std::atomic<int64_t> value{0}; };
  // A function object by its address: nothing is copied or allocated to start a region.
  struct Call {
    const void* self;
    void (*function)(const void* self, int thread);
    void operator()(int thread) const { function(self, thread); }
  };

  void run_all(Call);
  void run_often(Call, int kind);
  void work(int thread);
  void meet();
  // Whether it fell asleep. Ends when `word` is no longer (`wait_while`), or is (`wait_until`), this value.
  static bool wait_while(std::atomic<uint32_t>& word, uint32_t value, std::atomic<int>& sleepers, int spins);
  static bool wait_until(std::atomic<uint32_t>& word, uint32_t value, std::atomic<int>& sleepers, int spins);
  static void wake(std::atomic<uint32_t>& word, std::atomic<int>& sleepers);

  const int threads_;
  bool alone_ = false;  // in this run
  Crowding crowding_;
  const std::vector<int> cpus_;
  std::vector<std::thread> workers_;
  uint32_t awaited_ = 0;  // what `ended_` says when all workers are through with this run
  // What starts a run lies in one cache line, so that a worker fetches it at once; what ends it, in another.
  alignas(64) std::atomic<uint32_t> start_{0};
  std::atomic<int> start_sleepers_{0};
  Call job_{};
  bool stopping_ = false;
  alignas(64) std::atomic<uint32_t> ended_{0};
  std::atomic<int> end_sleepers_{0};
  alignas(64) std::atomic<uint32_t> generation_{0};
  std::atomic<int> barrier_sleepers_{0};
  std::atomic<int> stalls_{0};  // waits at a barrier in this run that ended asleep
  std::atomic<int> pinned_{0};
  alignas(64) std::atomic<int> arrived_{0};
  std::unique_ptr<Counter[]> taken_;  // grains taken of each thread's share; cleared at every barrier
};

}  // namespace trimtab::exec
