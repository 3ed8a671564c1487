// OpenMP's threads behind the interface of the fork-join executor: the rival in `trimtab bench stream`, never shipped.
//
// A step is one parallel region, and what threads share is an orphaned loop with OpenMP's own barrier: the way that
// costs OpenMP least. OMP_SCHEDULE says how loops are dealt out, OMP_WAIT_POLICY how threads wait.
#pragma once
#include <omp.h>

#include <cstdint>
#include <stdexcept>
#include <vector>

#include "exec/piece.h"
#include "recorder.h"

namespace trimtab::exec {

class OpenMp {
 public:
  explicit OpenMp(int threads, std::vector<int> = {}) : threads_(threads) {
    if (threads < 1 || threads > 1024) throw std::invalid_argument("threads must lie between 1 and 1024");
  }

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
#pragma omp parallel num_threads(threads_)
    job(omp_get_thread_num());
  }

  template <class Job>
  void run_stages(int stages, int, const Job& job) {
    run([&](int thread) { job(thread, 0, stages); });
  }

  template <class Body>
  void share(int, int64_t units, int64_t grain, const Body& body) {
    const int64_t grains = (units + grain - 1) / grain;
#pragma omp for schedule(runtime)
    for (int64_t g = 0; g < grains; ++g) body(g * grain, (g + 1) * grain < units ? (g + 1) * grain : units);
  }

  void barrier(int) {
#pragma omp barrier
  }

  Recorder* recorder = nullptr;  // its waits are the library's, and not recorded

 private:
  const int threads_;
};

}  // namespace trimtab::exec
