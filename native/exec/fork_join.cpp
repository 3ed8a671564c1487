#include "exec/fork_join.h"

#include <chrono>
#include <stdexcept>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "exec/target.h"

namespace trimtab::exec {
namespace {

// About 60 microseconds: longer than the waits of a healthy step, far below a scheduler's slice.
constexpr int kSpins = 3000;
// Between steps the caller prepares the next batch in a few hundred microseconds; falling asleep in that gap
// would cost a wake-up every step.
constexpr int kStartSpins = 20000;

// Spins that do not relax: what follows closely is not to wait for the end of a pause.
constexpr int kEagerSpins = 200;

void relax(int spin) {
  if (spin < kEagerSpins) return;
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

ForkJoin::ForkJoin(int threads, std::vector<int> cpus) : threads_(threads), cpus_(std::move(cpus)) {
  if (threads < 1 || threads > 1024) throw std::invalid_argument("threads must lie between 1 and 1024");
  if (!cpus_.empty() && int(cpus_.size()) != threads) throw std::invalid_argument("one processor number per thread");
  taken_ = std::make_unique<Counter[]>(threads);
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
}

ForkJoin::~ForkJoin() {
  stopping_ = true;
  start_.fetch_add(1, std::memory_order_release);
  start_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

bool ForkJoin::wait_while(std::atomic<uint32_t>& word, uint32_t value, std::atomic<int>& sleepers, int spins) {
  for (int i = 0; i < spins; ++i) {
    if (word.load(std::memory_order_acquire) != value) return false;
    relax(i);
  }
  sleepers.fetch_add(1, std::memory_order_seq_cst);
  while (word.load(std::memory_order_seq_cst) == value) word.wait(value, std::memory_order_acquire);
  sleepers.fetch_sub(1, std::memory_order_relaxed);
  return true;
}

bool ForkJoin::wait_until(std::atomic<uint32_t>& word, uint32_t value, std::atomic<int>& sleepers, int spins) {
  for (int i = 0; i < spins; ++i) {
    if (word.load(std::memory_order_acquire) == value) return false;
    relax(i);
  }
  sleepers.fetch_add(1, std::memory_order_seq_cst);
  for (;;) {
    const uint32_t seen = word.load(std::memory_order_seq_cst);
    if (seen == value) break;
    word.wait(seen, std::memory_order_acquire);
  }
  sleepers.fetch_sub(1, std::memory_order_relaxed);
  return true;
}

void ForkJoin::wake(std::atomic<uint32_t>& word, std::atomic<int>& sleepers) {
  word.fetch_add(1, std::memory_order_seq_cst);
  if (sleepers.load(std::memory_order_seq_cst) > 0) word.notify_all();
}

void ForkJoin::work(int thread) {
  if (!cpus_.empty() && pin_thread(cpus_[thread])) pinned_.fetch_add(1, std::memory_order_relaxed);
  uint32_t seen = 0;
  for (;;) {
    wait_while(start_, seen, start_sleepers_, kStartSpins);
    ++seen;
    if (stopping_) return;
    job_(thread);
    // The caller waits for all, and nobody for the caller: a worker is ready for the next run at once.
    wake(ended_, end_sleepers_);
  }
}

void ForkJoin::run_all(Call job) {
  stalls_.store(0, std::memory_order_relaxed);
  job_ = job;
  awaited_ += uint32_t(threads_ - 1);
  wake(start_, start_sleepers_);
  job(0);
  if (wait_until(ended_, awaited_, end_sleepers_, kSpins)) stalls_.fetch_add(1, std::memory_order_relaxed);
}

void ForkJoin::run_often(Call job, int kind) {
  using Clock = std::chrono::steady_clock;
  const bool together = crowding_.together(kind);
  const auto begin = Clock::now();
  if (together) {
    run_all(job);
  } else {
    alone_ = true;
    job(0);
    alone_ = false;
  }
  const int stalls = together ? stalls_.load(std::memory_order_relaxed) : 0;
  crowding_.ran(std::chrono::duration<double>(Clock::now() - begin).count(), stalls);
}

void ForkJoin::barrier(int thread) {
  if (recorder == nullptr || !recorder->on()) return meet();
  const int64_t begin = Recorder::now();
  meet();
  recorder->ring(thread).detail({begin, Recorder::now(), kSpanBarrier, 0});
}

void ForkJoin::meet() {
  if (alone_) {
    for (int i = 0; i < threads_; ++i) taken_[i].value.store(0, std::memory_order_relaxed);
    return;
  }
  const uint32_t generation = generation_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == threads_ - 1) {
    arrived_.store(0, std::memory_order_relaxed);
    for (int i = 0; i < threads_; ++i) taken_[i].value.store(0, std::memory_order_relaxed);
    wake(generation_, barrier_sleepers_);
  } else {
    if (wait_while(generation_, generation, barrier_sleepers_, kSpins)) stalls_.fetch_add(1, std::memory_order_relaxed);
  }
}

}  // namespace trimtab::exec
