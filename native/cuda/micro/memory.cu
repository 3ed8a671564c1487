// Latency of dependent loads by footprint, of shared memory, and bandwidth from both levels behind the first.
#include <numeric>
#include <random>

#include "common.cuh"

namespace gpu {
namespace {

constexpr size_t kLine = 128;

template <bool cached>
__device__ uint64_t load(uint64_t at) {
  uint64_t next;
  if constexpr (cached)
    asm volatile("ld.global.ca.u64 %0, [%1];" : "=l"(next) : "l"(at) : "memory");
  else
    asm volatile("ld.global.cg.u64 %0, [%1];" : "=l"(next) : "l"(at) : "memory");
  return next;
}

template <bool cached>
__global__ void chase(uint64_t start, int warm, int hops, long long* cycles, uint64_t* end) {
  uint64_t at = start;
  for (int i = 0; i < warm; ++i) at = load<cached>(at);
  const long long before = now();
#pragma unroll 4
  for (int i = 0; i < hops; ++i) at = load<cached>(at);
  *end = at;  // the last load has come back
  *cycles = now() - before;
}

__global__ void chase_shared(int hops, long long* cycles, uint32_t* end) {
  __shared__ uint32_t ring[1024];
  for (int i = 0; i < 1024; ++i) ring[i] = shared_address(&ring[(i + 33) % 1024]);
  uint32_t at = shared_address(ring);
  const long long before = now();
#pragma unroll 4
  for (int i = 0; i < hops; ++i) asm volatile("ld.shared.u32 %0, [%0];" : "+r"(at)::"memory");
  *end = at;
  *cycles = now() - before;
}

__global__ void stream(const float4* from, size_t count, int rounds, float* sink) {
  float sum = 0;
  for (int r = 0; r < rounds; ++r)
    for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < count; i += size_t(gridDim.x) * blockDim.x) {
      float4 v;
      asm volatile("ld.global.cg.v4.f32 {%0, %1, %2, %3}, [%4];"
                   : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "l"(from + i));
      sum += v.x + v.y + v.z + v.w;
    }
  if (sum == 12345.678f) *sink = sum;
}

// A random ring with one node a line; addresses are the device's.
void link(uint64_t base, size_t bytes, std::vector<uint64_t>& image) {
  const size_t count = bytes / kLine, words = kLine / sizeof(uint64_t);
  std::vector<uint32_t> order(count);
  std::iota(order.begin(), order.end(), 0u);
  std::shuffle(order.begin(), order.end(), std::mt19937(7));
  image.assign(count * words, 0);
  for (size_t i = 0; i < count; ++i) image[order[i] * words] = base + order[(i + 1) % count] * kLine;
}

template <bool cached>
void ladder(const Device& device, size_t most) {
  Buffer<uint64_t> ring(most / sizeof(uint64_t)), end(1);
  Buffer<long long> cycles(1);
  std::vector<uint64_t> image;
  for (size_t bytes = 4096; bytes <= most; bytes *= 2) {
    link(uint64_t(ring.get()), bytes, image);
    ring.put(image);
    const int lines = int(std::min<size_t>(bytes / kLine, 1 << 20));
    const int hops = device.quick ? 8192 : 32768;
    std::vector<double> ns, counted;
    for (int i = 0; i < (device.quick ? 3 : 9); ++i) {
      // The launch is part of the events' time; the counter inside is not, so cycles are the figure.
      const auto one = timed(1, [&] { chase<cached><<<1, 1>>>(uint64_t(ring.get()), lines, hops, cycles.get(), end.get()); });
      ns.push_back(one[0] / (hops + lines));
      counted.push_back(double(cycles.take()[0]) / hops);
    }
    Row row;
    row.name = cached ? "load global" : "load global past L1";
    row.suite = "memory";
    row.width_bits = 64;
    row.ns = ns;
    row.cycles = quantile(counted, 0.5);
    row.method = "random ring of pointers, one node a 128-byte line, one thread; ns with the warm-up";
    row.detail = "\"bytes\": " + std::to_string(bytes);
    print(row);
  }
}

}  // namespace

void memory_suite(const Device& device) {
  const size_t most = device.quick ? size_t(256) << 20 : size_t(2) << 30;
  ladder<true>(device, std::min<size_t>(most, size_t(1) << 20));
  ladder<false>(device, most);

  Buffer<long long> cycles(1);
  Buffer<uint32_t> end(1);
  const int hops = 65536;
  Row shared;
  shared.name = "load shared", shared.suite = "latency", shared.width_bits = 32;
  shared.ns = over(timed(9, [&] { chase_shared<<<1, 1>>>(hops, cycles.get(), end.get()); }), hops);
  shared.cycles = double(cycles.take()[0]) / hops;
  shared.method = "ring of addresses in shared memory, one thread";
  print(shared);

  for (const size_t bytes : {size_t(16) << 20, most / 2}) {
    Buffer<float4> data(bytes / sizeof(float4));
    Buffer<float> sink(1);
    CHECK(cudaMemset(data.get(), 0x3c, bytes));
    const int rounds = bytes < (size_t(64) << 20) ? 16 : 1;
    Row row;
    row.name = bytes < (size_t(64) << 20) ? "read L2" : "read memory";
    row.suite = "throughput", row.width_bits = 128, row.cores = device.processors;
    row.ns = timed(device.quick ? 5 : 20, [&] {
      stream<<<device.processors * 8, 512>>>(data.get(), bytes / sizeof(float4), rounds, sink.get());
    });
    row.rate = double(bytes) * rounds / quantile(row.ns, 0.5) * 1e9;
    row.unit = "B/s", row.method = "16 bytes a thread, past L1, all processors";
    row.detail = "\"bytes\": " + std::to_string(bytes);
    print(row);
  }
}

}  // namespace gpu
