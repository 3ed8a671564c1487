// What the processor and its memory can do at most, measured: the ceilings that benchmarks are compared with.
#pragma once
#include <cstddef>
#include <string>
#include <vector>

namespace trimtab {

struct Peak {
  double per_second;  // operations; a multiply and an add are two
  std::string kind;   // the instruction that reached it
};

// Bytes a second of each pass over `bytes` of memory, read by `threads` threads at once, for about `seconds`.
// Choose more bytes than the caches hold.
std::vector<double> read_rates(size_t bytes, int threads, double seconds);

// Register-only peaks: multiply-add of 8-bit integers into 32 bits, and of the widest-throughput float type.
// Each thread counts with its best stretch of some 50 us, so that a neighbour on the same core hides nothing.
Peak int8_peak(int threads, double seconds);
Peak float_peak(int threads, double seconds);
Peak float32_peak(int threads, double seconds);

}  // namespace trimtab
