#include "micro/sync.h"

#include <algorithm>
#include <atomic>
#include <stdexcept>

#include "micro/clock.h"
#include "micro/threads.h"

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace trimtab::micro {
namespace {

struct alignas(128) Line {  // neighbours may be fetched in pairs of lines
  std::atomic<uint64_t> value{0};
};

double since(uint64_t start) { return (double(ticks() - start) - reading_ticks()) * tick_ns(); }

// Each thread adds to `line` as fast as it can; the samples of the first thread.
std::vector<double> additions(int samples, const std::vector<int>& cpus) {
  constexpr int kAdds = 2000;
  Line line;
  std::atomic<bool> over{false};
  std::vector<double> out;
  Gate gate(int(cpus.size()));
  on_each(cpus, [&](int i) {
    gate.wait();
    if (i == 0) {
      for (int s = 0; s < samples; ++s) {
        const uint64_t t0 = ticks();
        for (int k = 0; k < kAdds; ++k) line.value.fetch_add(1);
        out.push_back(since(t0) / kAdds);
      }
      over = true;
    } else {
      while (!over.load(std::memory_order_relaxed))
        for (int k = 0; k < 64; ++k) line.value.fetch_add(1);
    }
  });
  return out;
}

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

// Two threads take turns at one line. A pause between looks would be part of the answer, so there is none
// unless the other side has been away for long.
std::vector<double> turns(int samples, const std::vector<int>& cpus) {
  constexpr uint64_t kTurns = 500;
  Line line;
  std::vector<double> out;
  Gate gate(2);
  on_each(cpus, [&](int i) {
    const uint64_t total = uint64_t(samples) * kTurns;
    auto await = [&](uint64_t wanted) {
      for (int spins = 0; line.value.load(std::memory_order_acquire) != wanted; ++spins)
        if (spins > 10'000) relax(), std::this_thread::yield();
    };
    gate.wait();
    if (i == 0) {
      uint64_t k = 0;
      for (int s = 0; s < samples; ++s) {
        const uint64_t t0 = ticks();
        for (uint64_t end = k + kTurns; k < end; ++k) {
          line.value.store(2 * k + 1, std::memory_order_release);
          await(2 * k + 2);
        }
        out.push_back(since(t0) / double(kTurns));
      }
    } else {
      for (uint64_t k = 0; k < total; ++k) {
        await(2 * k + 1);
        line.value.store(2 * k + 2, std::memory_order_release);
      }
    }
  });
  return out;
}

#if defined(__linux__)
long futex(std::atomic<uint32_t>* word, int what, uint32_t value) {
  return syscall(SYS_futex, reinterpret_cast<uint32_t*>(word), what | FUTEX_PRIVATE_FLAG, value, nullptr, nullptr, 0);
}

// From the waker's call until the sleeper runs, and with `there_and_back` until the waker itself was woken.
std::vector<double> wakes(int samples, const std::vector<int>& cpus, bool there_and_back) {
  alignas(128) std::atomic<uint32_t> go{0};
  alignas(128) std::atomic<uint32_t> back{0};
  std::atomic<uint64_t> woke{0};
  std::vector<double> out;
  Gate gate(2);
  on_each(cpus, [&](int i) {
    gate.wait();
    for (uint32_t s = 1; s <= uint32_t(samples); ++s) {
      if (i == 0) {
        // Long enough for the other side to be asleep: what is measured is a wake, not a value seen in time.
        const double start = now_ns();
        while (now_ns() - start < 60'000) relax();
        const uint64_t t0 = ticks();
        go.store(s);
        futex(&go, FUTEX_WAKE, 1);
        for (uint32_t seen; (seen = back.load()) != s;)
          if (there_and_back)
            futex(&back, FUTEX_WAIT, seen);
          else
            relax();
        out.push_back(there_and_back ? since(t0) : (double(woke.load()) - double(t0) - reading_ticks()) * tick_ns());
      } else {
        for (uint32_t seen; (seen = go.load()) != s;) futex(&go, FUTEX_WAIT, seen);
        woke.store(ticks());
        back.store(s);
        if (there_and_back) futex(&back, FUTEX_WAKE, 1);
      }
    }
  });
  return out;
}
#endif

}  // namespace

std::vector<double> time_sync(const std::string& event, int samples, const std::vector<int>& cpus) {
  if (samples < 1 || samples > 1'000'000) throw std::invalid_argument("samples must be 1 to 1000000");
  const bool two = event != "atomic_add" && event != "atomic_add_contended";
  if (cpus.empty() || cpus.size() > 1024 || (two && cpus.size() != 2) || (event == "atomic_add" && cpus.size() != 1))
    throw std::invalid_argument("cpus: the wrong number of them for " + event);
  tick_ns(), reading_ticks();
  if (event == "atomic_add" || event == "atomic_add_contended") return additions(samples, cpus);
  if (event == "line_round_trip") return turns(samples, cpus);
#if defined(__linux__)
  if (event == "futex_wake") return wakes(samples, cpus, false);
  if (event == "futex_round_trip") return wakes(samples, cpus, true);
#endif
  throw std::invalid_argument("no event `" + event + "` here");
}

}  // namespace trimtab::micro
