// Latency of dependent loads by footprint: a ring of pointers through a buffer, in random or in address order.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace trimtab::micro {

class Chase {
 public:
  // `huge` asks for 2 MiB pages, and otherwise forbids them; `huge_bytes` says what came of it.
  Chase(size_t bytes, bool huge);
  ~Chase();
  Chase(const Chase&) = delete;
  Chase& operator=(const Chase&) = delete;

  // A ring through the first `bytes` with a node in every `stride` bytes, each on a cache line of its own. Random
  // order visits them all before it repeats, so no prefetcher can guess; address order is what one can.
  // With `spread`, a node lies on a varying line of its stride: page strides must not fall into one cache set.
  void link(size_t bytes, size_t stride, bool random, bool spread);

  struct Hop {
    double ns, cycles;
  };
  // The cost of a hop for each sample of `hops` of them, after `warm` unmeasured ones, in the calling thread.
  std::vector<Hop> run(int64_t hops, int samples, int64_t warm);
  // The same with kWalkers hops under way at once on each of `cpus` (-1: anywhere), evenly spread over the ring:
  // no latency, but the ring is walked so fast that neighbours of a shared cache have little time to take it
  // away. The time is that of the first thread, by its own hops.
  static constexpr int kWalkers = 8, kMostThreads = 64;
  std::vector<Hop> run_parallel(int64_t hops, int samples, int64_t warm, const std::vector<int>& cpus);

  size_t bytes() const { return bytes_; }
  size_t huge_bytes() const;
  size_t nodes() const { return nodes_; }
  // Nodes met on the way round; equals nodes() when the ring is whole.
  size_t length() const;

 private:
  void check(int64_t hops, int samples, int64_t warm) const;
  uint8_t* data_;
  size_t bytes_, nodes_ = 0;
  void* at_ = nullptr;
  std::vector<void*> spread_;  // kWalkers * kMostThreads nodes, evenly along the ring
};

}  // namespace trimtab::micro
