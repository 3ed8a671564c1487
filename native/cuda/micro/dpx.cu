// Dynamic-programming instructions: latency of a chain and throughput of a full processor, results checked
// against plain arithmetic.
#include <random>

#include "common.cuh"

namespace gpu {
namespace {

inline int largest(int a, int b) { return a > b ? a : b; }
inline int smallest(int a, int b) { return a < b ? a : b; }

// Both 16-bit halves by `f`.
template <class F>
unsigned halves(unsigned a, unsigned b, unsigned c, F f) {
  const unsigned low = uint16_t(f(int16_t(a), int16_t(b), int16_t(c)));
  const unsigned high = uint16_t(f(int16_t(a >> 16), int16_t(b >> 16), int16_t(c >> 16)));
  return low | high << 16;
}

struct Max3 {
  static constexpr const char* name = "vimax3_s32";
  static constexpr int ops = 2;
  __device__ static unsigned fast(unsigned a, unsigned b, unsigned c) { return __vimax3_s32(a, b, c); }
  static unsigned plain(unsigned a, unsigned b, unsigned c) { return largest(largest(int(a), int(b)), int(c)); }
};
struct Min3 {
  static constexpr const char* name = "vimin3_s32";
  static constexpr int ops = 2;
  __device__ static unsigned fast(unsigned a, unsigned b, unsigned c) { return __vimin3_s32(a, b, c); }
  static unsigned plain(unsigned a, unsigned b, unsigned c) { return smallest(smallest(int(a), int(b)), int(c)); }
};
struct AddMax {
  static constexpr const char* name = "viaddmax_s32";
  static constexpr int ops = 2;
  __device__ static unsigned fast(unsigned a, unsigned b, unsigned c) { return __viaddmax_s32(a, b, c); }
  static unsigned plain(unsigned a, unsigned b, unsigned c) { return largest(int(a + b), int(c)); }
};
struct AddMaxRelu {
  static constexpr const char* name = "viaddmax_s32_relu";
  static constexpr int ops = 3;
  __device__ static unsigned fast(unsigned a, unsigned b, unsigned c) { return __viaddmax_s32_relu(a, b, c); }
  static unsigned plain(unsigned a, unsigned b, unsigned c) { return largest(largest(int(a + b), int(c)), 0); }
};
struct Max3Pair {
  static constexpr const char* name = "vimax3_s16x2";
  static constexpr int ops = 4;
  __device__ static unsigned fast(unsigned a, unsigned b, unsigned c) { return __vimax3_s16x2(a, b, c); }
  static unsigned plain(unsigned a, unsigned b, unsigned c) {
    return halves(a, b, c, [](int x, int y, int z) { return largest(largest(x, y), z); });
  }
};
struct AddMaxPair {
  static constexpr const char* name = "viaddmax_s16x2";
  static constexpr int ops = 4;
  __device__ static unsigned fast(unsigned a, unsigned b, unsigned c) { return __viaddmax_s16x2(a, b, c); }
  static unsigned plain(unsigned a, unsigned b, unsigned c) {
    return halves(a, b, c, [](int x, int y, int z) { return largest(int16_t(x + y), z); });
  }
};
struct AddMaxReluPair {
  static constexpr const char* name = "viaddmax_s16x2_relu";
  static constexpr int ops = 6;
  __device__ static unsigned fast(unsigned a, unsigned b, unsigned c) { return __viaddmax_s16x2_relu(a, b, c); }
  static unsigned plain(unsigned a, unsigned b, unsigned c) {
    return halves(a, b, c, [](int x, int y, int z) { return largest(largest(int16_t(x + y), z), 0); });
  }
};

template <class F>
__global__ void apply(const unsigned* in, unsigned* out, int count) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) out[i] = F::fast(in[3 * i], in[3 * i + 1], in[3 * i + 2]);
}

// The empty statements make every operand a new value, so that no step folds into another.
template <class F, int chains>
__global__ void chain(int rounds, unsigned a, unsigned b, long long* cycles, unsigned* out) {
  unsigned x[chains];
  for (int k = 0; k < chains; ++k) x[k] = threadIdx.x + k;
  __syncthreads();
  const long long before = now();
  for (int r = 0; r < rounds; ++r)
#pragma unroll
    for (int u = 0; u < 16; ++u)
#pragma unroll
      for (int k = 0; k < chains; ++k) {
        x[k] = F::fast(x[k], a, b);
        asm volatile("" : "+r"(x[k]), "+r"(a), "+r"(b));
      }
  const long long took = now() - before;
  unsigned sum = 0;
  for (int k = 0; k < chains; ++k) sum ^= x[k];
  out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
  if (threadIdx.x == 0) cycles[blockIdx.x] = took;
}

template <class F>
void verify() {
  const int count = 1 << 14;
  std::mt19937 chance(11);
  std::vector<unsigned> in(3 * count);
  for (unsigned& word : in) word = chance();
  Buffer<unsigned> from(in.size()), to(count);
  from.put(in);
  apply<F><<<count / 256, 256>>>(from.get(), to.get(), count);
  CHECK(cudaGetLastError());
  const auto got = to.take();
  for (int i = 0; i < count; ++i)
    if (got[i] != F::plain(in[3 * i], in[3 * i + 1], in[3 * i + 2])) {
      std::fprintf(stderr, "%s: wrong result for %08x %08x %08x\n", F::name, in[3 * i], in[3 * i + 1], in[3 * i + 2]);
      std::exit(1);
    }
}

template <class F>
void measure(const Device& device) {
  verify<F>();
  const int rounds = 2048, threads = 1024, blocks = device.processors * 2;
  Buffer<long long> cycles{size_t(blocks)};
  Buffer<unsigned> out{size_t(blocks) * threads};
  Row row;
  row.name = F::name, row.suite = "latency", row.width_bits = 32;
  row.ns = over(timed(9, [&] { chain<F, 1><<<1, 32>>>(rounds, 3, 5, cycles.get(), out.get()); }), rounds * 16.0);
  row.cycles = double(cycles.take()[0]) / (rounds * 16.0);
  row.method = "dependent chain in one warp, results checked";
  print(row);
  const double steps = rounds * 16.0 * 4;
  row.suite = "throughput", row.cores = device.processors;
  row.ns = over(timed(9, [&] { chain<F, 4><<<blocks, threads>>>(rounds, 3, 5, cycles.get(), out.get()); }), steps);
  row.cycles = 0;
  row.rate = double(blocks) * threads * F::ops / quantile(row.ns, 0.5) * 1e9;
  row.unit = "op/s", row.method = "four chains a thread, all processors full; ns of a step of every thread";
  row.detail = "\"ops\": " + std::to_string(F::ops);
  print(row);
}

}  // namespace

void dpx_suite(const Device& device) {
  measure<Max3>(device);
  measure<Min3>(device);
  measure<AddMax>(device);
  measure<AddMaxRelu>(device);
  measure<Max3Pair>(device);
  measure<AddMaxPair>(device);
  measure<AddMaxReluPair>(device);
}

}  // namespace gpu
