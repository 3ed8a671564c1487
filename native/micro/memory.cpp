#include "micro/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <new>
#include <stdexcept>

#include "micro/clock.h"
#include "micro/threads.h"

namespace trimtab::micro {
namespace {

constexpr size_t kLine = 64, kHuge = size_t(2) << 20;

template <int walkers>
void walk(void** starts, int64_t hops) {
  void* at[walkers];
  for (int w = 0; w < walkers; ++w) at[w] = starts[w];
  for (hops = (hops + walkers - 1) / walkers; hops > 0; hops -= 8)
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i)
#pragma GCC unroll 8
      for (int w = 0; w < walkers; ++w) {
        at[w] = *static_cast<void**>(at[w]);
        asm volatile("" : "+r"(at[w]));
      }
  for (int w = 0; w < walkers; ++w) starts[w] = at[w];
}

constexpr int64_t kStep = 8 * Chase::kWalkers;  // whole rounds of the loops, so that counts are exact

int64_t whole(int64_t hops) { return (hops + kStep - 1) / kStep * kStep; }

template <int walkers>
void measure(void** starts, int64_t hops, int samples, int64_t warm, std::vector<Chase::Hop>& out) {
  hops = whole(hops);
  walk<walkers>(starts, whole(warm));
  for (int s = 0; s < samples; ++s) {
    const double before = cycle_ticks();
    const uint64_t t0 = ticks();
    walk<walkers>(starts, hops);
    const double took = double(ticks() - t0) - reading_ticks();
    const double cycle = std::min(before, cycle_ticks());
    out.push_back({took * tick_ns() / double(hops), took / cycle / double(hops)});
  }
}

}  // namespace

Chase::Chase(size_t bytes, bool huge) {
  if (bytes < 4096 || bytes > (size_t(1) << 36)) throw std::invalid_argument("bytes: 4 KiB to 64 GiB");
  // Room to start at a multiple of a huge page, or none would be given.
  bytes_ = (bytes + kHuge - 1) / kHuge * kHuge + kHuge;
  void* got = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (got == MAP_FAILED) throw std::bad_alloc();
  auto* start = static_cast<uint8_t*>(got);
  const size_t skip = (kHuge - reinterpret_cast<uintptr_t>(start) % kHuge) % kHuge;
  if (skip) munmap(start, skip);
  data_ = start + skip;
  munmap(data_ + bytes_ - kHuge, kHuge - skip);
  bytes_ -= kHuge;
#ifdef MADV_HUGEPAGE
  madvise(data_, bytes_, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
#endif
}

Chase::~Chase() { munmap(data_, bytes_); }

void Chase::link(size_t bytes, size_t stride, bool random, bool spread) {
  if (stride < kLine || stride % kLine || bytes < 2 * stride || bytes > bytes_)
    throw std::invalid_argument("a ring needs two strides of whole lines, inside the buffer");
  const size_t count = bytes / stride, lines = stride / kLine;
  if (count > UINT32_MAX) throw std::invalid_argument("too many nodes");
  uint64_t state = 0x9E3779B97F4A7C15u;
  auto next = [&](uint64_t below) {  // below 2^32: the bias is smaller than any use of it could show
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return ((state >> 32) * below) >> 32;
  };
  auto node = [&](size_t i) { return data_ + i * stride + (spread ? i * 7 % lines * kLine : 0); };
  std::vector<uint32_t> order(count);
  for (size_t i = 0; i < count; ++i) order[i] = uint32_t(i);
  if (random)
    for (size_t i = count - 1; i > 0; --i) std::swap(order[i], order[next(i + 1)]);
  for (size_t i = 0; i < count; ++i)
    *reinterpret_cast<void**>(node(order[i])) = node(order[i + 1 < count ? i + 1 : 0]);
  nodes_ = count;
  spread_.clear();
  constexpr size_t places = size_t(kWalkers) * kMostThreads;
  for (size_t w = 0; w < places; ++w) spread_.push_back(node(order[count * w / places]));
  at_ = spread_[0];
}

std::vector<Chase::Hop> Chase::run(int64_t hops, int samples, int64_t warm) {
  check(hops, samples, warm);
  std::vector<Hop> out;
  measure<1>(&at_, hops, samples, warm, out);
  return out;
}

std::vector<Chase::Hop> Chase::run_parallel(int64_t hops, int samples, int64_t warm, const std::vector<int>& cpus) {
  check(hops, samples, warm);
  const size_t threads = cpus.size();
  if (threads < 1 || threads > size_t(kMostThreads)) throw std::invalid_argument("cpus: 1 to 64 of them");
  tick_ns(), reading_ticks();
  std::vector<Hop> first;
  std::atomic<bool> over{false};
  Gate gate{int(threads)};
  on_each(cpus, [&](int thread) {
    void* starts[kWalkers];
    for (size_t w = 0; w < size_t(kWalkers); ++w)
      starts[w] = spread_[(w * threads + size_t(thread)) * spread_.size() / (kWalkers * threads)];
    gate.wait();
    if (thread == 0) {
      measure<kWalkers>(starts, hops, samples, warm, first);
      over = true;
    }
    while (!over.load(std::memory_order_relaxed)) walk<kWalkers>(starts, kStep);
  });
  return first;
}

void Chase::check(int64_t hops, int samples, int64_t warm) const {
  if (!nodes_) throw std::invalid_argument("link a ring first");
  if (hops < 1 || samples < 1 || warm < 0) throw std::invalid_argument("hops and samples must be at least 1");
}

size_t Chase::length() const {
  if (!nodes_) return 0;
  size_t count = 1;
  for (void* at = *static_cast<void**>(at_); at != at_ && count <= nodes_; at = *static_cast<void**>(at)) ++count;
  return count;
}

// What the kernel says about the mapping: huge pages are granted or not, whatever was asked.
size_t Chase::huge_bytes() const {
  size_t found = 0;
#if defined(__linux__)
  std::FILE* file = std::fopen("/proc/self/smaps", "r");
  if (!file) return 0;
  char line[512];
  bool inside = false;
  while (std::fgets(line, sizeof line, file)) {
    unsigned long low, high, kib;
    if (std::sscanf(line, "%lx-%lx ", &low, &high) == 2)
      inside = low < reinterpret_cast<uintptr_t>(data_ + bytes_) && high > reinterpret_cast<uintptr_t>(data_);
    else if (inside && std::sscanf(line, "AnonHugePages: %lu kB", &kib) == 1)
      found += kib * 1024;
  }
  std::fclose(file);
#endif
  return found;
}

}  // namespace trimtab::micro
