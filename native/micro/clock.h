// Time in ticks of the finest clock there is, and in core cycles by a chain of additions, one cycle each.
#pragma once
#include <chrono>
#include <cstdint>

#if defined(__x86_64__)
#include <x86intrin.h>
#endif

namespace trimtab::micro {

inline double now_ns() {
  return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The fences keep earlier work before the reading and later work behind it.
inline uint64_t ticks() {
#if defined(__x86_64__)
  unsigned cpu;
  _mm_lfence();
  const uint64_t at = __rdtscp(&cpu);
  _mm_lfence();
  return at;
#else
  return uint64_t(now_ns());
#endif
}

// Length of a tick: the counter counts reference cycles, so it is held against the system's clock once.
double tick_ns();

// Ticks that two readings with nothing between them are apart.
double reading_ticks();

// Runs `rounds` rounds of the addition chain, kAddSteps cycles each.
constexpr int kAddSteps = 96;
void add_chain(uint64_t rounds);

// Ticks of one core cycle at this moment; some two microseconds of work.
double cycle_ticks();

}  // namespace trimtab::micro
