// Threads of a measurement: pinned, started together, and gone afterwards.
#pragma once
#include <atomic>
#include <exception>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

namespace trimtab::micro {

inline bool pin(int cpu) {
#if defined(__linux__)
  if (cpu < 0) return true;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  return pthread_setaffinity_np(pthread_self(), sizeof(set), &set) == 0;
#else
  return cpu < 0;
#endif
}

// Spinning start line: the threads leave it within a cache line's way of each other.
class Gate {
 public:
  explicit Gate(int threads) : left_(threads) {}
  void wait() {
    left_.fetch_sub(1);
    for (int spins = 0; left_.load() > 0; ++spins)
      if (spins > 100'000) std::this_thread::yield();
  }

 private:
  std::atomic<int> left_;
};

// Calls work(i) on a thread for each processor; -1 leaves a thread unpinned. All are new, so the caller's own
// affinity stays as it is.
template <class Work>
void on_each(const std::vector<int>& cpus, Work work) {
  std::vector<std::thread> threads;
  for (size_t i = 0; i < cpus.size(); ++i)
    threads.emplace_back([&, i] {
      pin(cpus[i]);
      work(int(i));
    });
  for (auto& each : threads) each.join();
}

}  // namespace trimtab::micro
