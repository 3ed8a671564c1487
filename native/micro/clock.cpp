#include "micro/clock.h"

#include <algorithm>

#include "micro/kernels.h"

namespace trimtab::micro {

double tick_ns() {
#if defined(__x86_64__)
  static const double length = [] {
    // The narrowest of several windows: a pause between the two clocks' readings only widens one.
    double best = 0, narrowest = 1e300;
    for (int i = 0; i < 5; ++i) {
      const uint64_t t0 = ticks();
      const double n0 = now_ns();
      while (now_ns() - n0 < 4e6) {
      }
      const double n1 = now_ns();
      const uint64_t t1 = ticks();
      const double slack = double(t1 - t0) - (n1 - n0) * (best > 0 ? 1 / best : 0);
      if (best == 0 || slack < narrowest) best = (n1 - n0) / double(t1 - t0), narrowest = slack;
    }
    return best;
  }();
  return length;
#else
  return 1.0;
#endif
}

double reading_ticks() {
  static const double least = [] {
    uint64_t best = ~uint64_t(0);
    for (int i = 0; i < 1000; ++i) {
      const uint64_t t0 = ticks();
      best = std::min(best, ticks() - t0);
    }
    return double(best);
  }();
  return least;
}

void add_chain(uint64_t rounds) {
#if defined(__x86_64__)
  uint64_t x = 1, y = 3;
  asm volatile(
      ".p2align 5\n"
      "1:\n\t.rept 96\n\tadd %[y], %[x]\n\t.endr\n\t"
      "dec %[n]\n\tjnz 1b"
      : [x] "+r"(x), [n] "+r"(rounds)
      : [y] "r"(y)
      : "cc");
#else
  uint64_t x = 1, y = 3;
  for (; rounds; --rounds)
#pragma GCC unroll 96
    for (int i = 0; i < kAddSteps; ++i) {
      x += y;
      asm volatile("" : "+r"(x), "+r"(y));
    }
#endif
}

double cycle_ticks() {
  constexpr uint64_t rounds = 96;
  const double overhead = reading_ticks();
  const uint64_t t0 = ticks();
  add_chain(rounds);
  return std::max(1.0, double(ticks() - t0) - overhead) / double(rounds * kAddSteps);
}

}  // namespace trimtab::micro
