#include "micro/units.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>

#include "micro/clock.h"
#include "micro/threads.h"

namespace trimtab::micro {
namespace {

constexpr double kAimNs = 12'000;  // of a sample: readings are noise of 0.1 %, and interrupts seldom fit in

struct Page {
  void* data = std::aligned_alloc(4096, kDataBytes);
  Page() {
    if (!data) throw std::bad_alloc();
  }
  ~Page() { std::free(data); }
  Page(const Page&) = delete;
  Page& operator=(const Page&) = delete;
};

Sample once(const Kernel& kernel, void* data, uint64_t rounds) {
  // The clock is read on both sides, and an interrupt can only lengthen a reading.
  const double before = cycle_ticks();
  const uint64_t t0 = ticks();
  kernel.run(rounds, data);
  const double took = double(ticks() - t0) - reading_ticks();
  const double cycle = std::min(before, cycle_ticks());
  const double steps = double(rounds) * kernel.steps;
  return {took / cycle / steps, took * tick_ns() / steps, 1e9 / (cycle * tick_ns())};
}

}  // namespace

std::vector<std::vector<Sample>> time_kernel(const Kernel& kernel, int samples, const std::vector<int>& cpus, bool zeros) {
  if (samples < 1 || samples > 100'000) throw std::invalid_argument("samples must be 1 to 100000");
  if (cpus.empty() || cpus.size() > 1024) throw std::invalid_argument("cpus: 1 to 1024 of them");
  if (!runs_here(kernel)) throw std::invalid_argument("this processor lacks instructions of that kernel");
  tick_ns(), reading_ticks();  // found out by one thread alone
  std::vector<std::vector<Sample>> out(cpus.size());
  std::vector<std::unique_ptr<Page>> pages;
  for (size_t i = 0; i < cpus.size(); ++i) pages.push_back(std::make_unique<Page>());
  Gate gate(int(cpus.size()));
  on_each(cpus, [&](int i) {
    void* data = pages[size_t(i)]->data;
    fill(kernel, data, zeros);
    std::vector<Sample>& mine = out[size_t(i)];
    mine.reserve(size_t(samples));
    kernel.run(50, data);  // wakes the upper halves of the units
    uint64_t rounds = 20;
    const double each = std::max(once(kernel, data, rounds).ns, 1e-3) * kernel.steps;
    rounds = uint64_t(std::clamp(kAimNs / each, 4.0, 1e6));
    gate.wait();
    for (int s = 0; s < samples; ++s) mine.push_back(once(kernel, data, rounds));
  });
  return out;
}

std::vector<double> frequencies(int samples) {
  if (samples < 1 || samples > 100'000) throw std::invalid_argument("samples must be 1 to 100000");
  std::vector<double> out;
  for (int i = 0; i < samples; ++i) out.push_back(1e9 / (cycle_ticks() * tick_ns()));
  return out;
}

}  // namespace trimtab::micro
