// What all suites share: errors, repeated timing, and rows in the one table format (see micro/rows.py).
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace gpu {

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}
#define CHECK(call) ::gpu::check((call), #call)

struct Device {
  cudaDeviceProp properties;
  int processors;
  bool quick;
};

// Memory of the device, freed with its owner.
template <class T>
class Buffer {
 public:
  explicit Buffer(size_t count) : count_(count) { CHECK(cudaMalloc(&data_, count * sizeof(T))); }
  ~Buffer() { cudaFree(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  T* get() const { return data_; }
  void put(const std::vector<T>& from) {
    CHECK(cudaMemcpy(data_, from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  std::vector<T> take() const {
    std::vector<T> out(count_);
    CHECK(cudaMemcpy(out.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost));
    return out;
  }

 private:
  T* data_;
  size_t count_;
};

// Nanoseconds of a launch by the device's own clock, once for each of `repeats` after a warm one.
template <class Launch>
std::vector<double> timed(int repeats, Launch launch) {
  cudaEvent_t start, stop;
  CHECK(cudaEventCreate(&start));
  CHECK(cudaEventCreate(&stop));
  launch();
  CHECK(cudaGetLastError());
  CHECK(cudaDeviceSynchronize());
  std::vector<double> out;
  for (int i = 0; i < repeats; ++i) {
    CHECK(cudaEventRecord(start));
    launch();
    CHECK(cudaEventRecord(stop));
    CHECK(cudaEventSynchronize(stop));
    float ms = 0;
    CHECK(cudaEventElapsedTime(&ms, start, stop));
    out.push_back(double(ms) * 1e6);
  }
  CHECK(cudaEventDestroy(start));
  CHECK(cudaEventDestroy(stop));
  return out;
}

inline double quantile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  const double at = share * double(values.size() - 1);
  const size_t low = size_t(at), high = std::min(low + 1, values.size() - 1);
  return values[low] + (values[high] - values[low]) * (at - double(low));
}

struct Row {
  std::string name, suite;
  int width_bits = 0, cores = 1;
  std::vector<double> ns;  // of one, by repetition
  double cycles = 0;       // of one by the processor's counter; 0 where it was not read
  double rate = 0;         // a second
  std::string unit, method;
  std::string detail;      // JSON members, without braces
};

inline void print(const Row& row) {
  const double median = quantile(row.ns, 0.5);
  char cycles[40] = "null";
  if (row.cycles > 0) std::snprintf(cycles, sizeof cycles, "%.6g", row.cycles);
  std::printf(
      "{\"name\": \"%s\", \"suite\": \"%s\", \"width_bits\": %d, \"cores\": %d, \"ns\": %.9g, \"cycles\": %s, "
      "\"rate\": %.9g, \"unit\": \"%s\", \"n\": %zu, \"median_ns\": %.9g, \"iqr_ns\": %.9g, \"method\": \"%s\", "
      "\"detail\": {%s}}\n",
      row.name.c_str(), row.suite.c_str(), row.width_bits, row.cores, median, cycles, row.rate, row.unit.c_str(),
      row.ns.size(), median, quantile(row.ns, 0.75) - quantile(row.ns, 0.25), row.method.c_str(), row.detail.c_str());
  std::fflush(stdout);
}

// Per-step times out of those of a whole launch.
inline std::vector<double> over(std::vector<double> ns, double steps) {
  for (double& each : ns) each /= steps;
  return ns;
}

__device__ inline long long now() {
  long long at;
  asm volatile("mov.u64 %0, %%clock64;" : "=l"(at)::"memory");
  return at;
}

__device__ inline uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }

void memory_suite(const Device& device);   // chase by footprint, shared memory, bandwidth
void tensor_suite(const Device& device);   // mma and wgmma by type and shape
void cluster_suite(const Device& device);  // distributed shared memory
void bulk_suite(const Device& device);     // bulk copies of the tensor memory accelerator
void dpx_suite(const Device& device);      // dynamic-programming instructions

}  // namespace gpu
