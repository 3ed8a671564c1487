// Tensor cores: latency of one step and throughput of many, by type and shape, on zeros and on random numbers;
// one step of every kernel is checked against the same product on the host.
#include <cmath>
#include <cstring>
#include <random>

#include "common.cuh"
#include "tensor_kernels.cuh"

namespace gpu {
namespace {

constexpr int kInner = 32;  // bytes of the inner dimension in a step, whatever the type
constexpr int kBatch = 16;  // steps between two waits

// ---- numbers: small whole ones, which every type holds exactly and every sum adds exactly --------------------

int inner(const char* type) { return !std::strcmp(type, "tf32") ? 8 : !std::strcmp(type, "bf16") || !std::strcmp(type, "f16") ? 16 : 32; }

uint8_t e4m3(int value) {  // |value| <= 4
  static const uint8_t magnitude[] = {0x00, 0x38, 0x40, 0x44, 0x48};
  return uint8_t(magnitude[value < 0 ? -value : value] | (value < 0 ? 0x80 : 0));
}

void encode(const char* type, int value, uint8_t* to) {
  const float wide = float(value);
  uint32_t bits;
  std::memcpy(&bits, &wide, 4);
  if (!std::strcmp(type, "tf32")) {
    std::memcpy(to, &bits, 4);
  } else if (!std::strcmp(type, "bf16")) {
    const uint16_t half = uint16_t(bits >> 16);
    std::memcpy(to, &half, 2);
  } else if (!std::strcmp(type, "f16")) {
    // A whole number below 2048: sign, exponent and the upper mantissa bits move over.
    const uint16_t half = value == 0 ? 0 : uint16_t((bits >> 16 & 0x8000) | (((bits >> 23 & 0xFF) - 112) << 10) | (bits >> 13 & 0x3FF));
    std::memcpy(to, &half, 2);
  } else if (!std::strcmp(type, "e4m3")) {
    *to = e4m3(value);
  } else {
    *to = uint8_t(int8_t(value));
  }
}

struct Operand {
  std::vector<int> values;     // (rows, inner)
  std::vector<uint8_t> bytes;  // (rows, 32)
};

Operand operand(const char* type, int rows, bool zeros, unsigned seed) {
  const int k = inner(type), size = kInner / k;
  std::mt19937 chance(seed);
  Operand out{std::vector<int>(size_t(rows) * k), std::vector<uint8_t>(size_t(rows) * kInner)};
  for (size_t i = 0; i < out.values.size(); ++i) {
    out.values[i] = zeros ? 0 : int(chance() % 9) - 4;
    encode(type, out.values[i], out.bytes.data() + i * size);
  }
  return out;
}

template <class Sum>
void compare(const char* what, const Operand& a, const Operand& b, int m, int n, int k, const std::vector<Sum>& got) {
  for (int i = 0; i < m; ++i)
    for (int j = 0; j < n; ++j) {
      long sum = 0;
      for (int p = 0; p < k; ++p) sum += long(a.values[i * k + p]) * b.values[j * k + p];
      if (got[size_t(i) * n + j] != Sum(sum)) {
        std::fprintf(stderr, "%s: element (%d, %d) is %g, not %ld\n", what, i, j, double(got[size_t(i) * n + j]), sum);
        std::exit(1);
      }
    }
}

// ---- warp-group products ---------------------------------------------------------------------------------------

// Core matrices of 8 rows x 16 bytes, each 128 bytes in a row; those of one half of the inner dimension lie
// together, so the stride between row groups is 128 bytes and between the halves rows * 16.
__device__ uint64_t descriptor(const void* matrix, int rows) {
  const uint64_t at = (shared_address(matrix) & 0x3FFFF) >> 4;
  return at | uint64_t((rows * 16) >> 4) << 16 | uint64_t(128 >> 4) << 32;
}

__device__ void place(const uint8_t* from, int rows, uint8_t* to) {
  for (int i = threadIdx.x; i < rows * 2; i += blockDim.x) {
    const int row = i / 2, half = i % 2;
    const int at = (half * (rows / 8) + row / 8) * 128 + row % 8 * 16;
    *reinterpret_cast<uint4*>(to + at) = *reinterpret_cast<const uint4*>(from + row * kInner + half * 16);
  }
}

__device__ void fence_operands() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ void commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
__device__ void wait_all() { asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory"); }

// Keeps accumulators where they are between asynchronous steps.
template <class Sum, int count>
__device__ void hold(Sum (&d)[count]) {
#pragma unroll
  for (int i = 0; i < count; ++i) {
    if constexpr (sizeof(Sum) == 4 && Sum(0.5) != 0)
      asm volatile("" : "+f"(d[i])::"memory");
    else
      asm volatile("" : "+r"(d[i])::"memory");
  }
}

// rounds = 0: one step, whose result is written out. Otherwise rounds x `batch` steps on the same sums.
template <class Kernel, int batch>
__global__ void __launch_bounds__(128) group_product(const uint8_t* left, const uint8_t* right, int rounds,
                                                     typename Kernel::Sum* out, long long* cycles) {
  __shared__ __align__(128) uint8_t a[64 * kInner];
  __shared__ __align__(128) uint8_t b[Kernel::n * kInner];
  place(left, 64, a);
  place(right, Kernel::n, b);
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  // A fragment: a register is four bytes of row lane/4 (+8), at byte (lane%4)*4 (+16).
  uint32_t fragment[4];
  for (int r = 0; r < 4; ++r) {
    const int row = warp * 16 + lane / 4 + (r & 1) * 8, byte = lane % 4 * 4 + (r >> 1) * 16;
    fragment[r] = *reinterpret_cast<const uint32_t*>(left + row * kInner + byte);
  }
  const uint64_t left_at = descriptor(a, 64), right_at = descriptor(b, Kernel::n);
  typename Kernel::Sum d[Kernel::sums] = {};
  hold(d);
  const long long before = now();
  if (rounds == 0) {
    fence_operands();
    Kernel::issue(d, fragment, left_at, right_at, 0);
    commit();
    wait_all();
    hold(d);
  }
  for (int r = 0; r < rounds; ++r) {
    fence_operands();
#pragma unroll
    for (int i = 0; i < batch; ++i) Kernel::issue(d, fragment, left_at, right_at, 1);
    commit();
    wait_all();  // without this the rate of issue would be measured, not that of products
    hold(d);
  }
  if (threadIdx.x == 0) cycles[blockIdx.x] = now() - before;
  if (rounds == 0) {
    for (int j = 0; j < Kernel::n / 8; ++j)
      for (int i = 0; i < 2; ++i)
        for (int c = 0; c < 2; ++c)
          out[(warp * 16 + lane / 4 + 8 * i) * Kernel::n + 8 * j + lane % 4 * 2 + c] = d[4 * j + 2 * i + c];
    return;
  }
  typename Kernel::Sum sum = 0;
  for (int i = 0; i < Kernel::sums; ++i) sum += d[i];
  out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

struct GroupSuite {
  const Device& device;

  template <class Kernel>
  void operator()(Kernel) const {
    using Sum = typename Kernel::Sum;
    const int blocks = device.processors;
    const std::string name = std::string("wgmma ") + Kernel::type + (Kernel::registers ? " rs" : " ss");
    Buffer<uint8_t> left(64 * kInner), right(Kernel::n * kInner);
    Buffer<Sum> out(std::max(size_t(64) * Kernel::n, size_t(blocks) * 128));
    Buffer<long long> cycles{size_t(blocks)};
    for (const bool zeros : {false, true}) {
      const Operand a = operand(Kernel::type, 64, zeros, 1), b = operand(Kernel::type, Kernel::n, zeros, 2);
      left.put(a.bytes), right.put(b.bytes);
      group_product<Kernel, 1><<<1, 128>>>(left.get(), right.get(), 0, out.get(), cycles.get());
      CHECK(cudaGetLastError());
      compare<Sum>(name.c_str(), a, b, 64, Kernel::n, Kernel::k, out.take());

      Row row;
      row.name = name, row.suite = "latency";
      row.detail = "\"n\": " + std::to_string(Kernel::n) + ", \"data\": \"" + (zeros ? "zeros" : "random") + "\"";
      const int single = 2000;
      if (!zeros) {
        row.ns = over(timed(5, [&] {
          group_product<Kernel, 1><<<1, 128>>>(left.get(), right.get(), single, out.get(), cycles.get());
        }), single);
        row.cycles = double(cycles.take()[0]) / single;
        row.method = "one step, committed and waited for, one warp group";
        print(row);
      }
      const int rounds = device.quick ? 1000 : 6250;  // of kBatch: 100,000 steps
      const double steps = double(rounds) * kBatch;
      row.suite = "throughput", row.cores = blocks;
      row.ns = over(timed(device.quick ? 3 : 7, [&] {
        group_product<Kernel, kBatch><<<blocks, 128>>>(left.get(), right.get(), rounds, out.get(), cycles.get());
      }), steps);
      row.cycles = double(cycles.take()[0]) / steps;
      row.rate = 2.0 * 64 * Kernel::n * Kernel::k * blocks / quantile(row.ns, 0.5) * 1e9;
      row.unit = "op/s", row.method = "one warp group a processor, waited for every 16 steps, one step checked";
      print(row);
    }
  }
};

// ---- products of one warp ----------------------------------------------------------------------------------------

template <class Kernel, int chains>
__global__ void warp_product(const uint8_t* left, const uint8_t* right, int rounds, typename Kernel::Sum* out,
                             long long* cycles) {
  const int lane = threadIdx.x % 32;
  uint32_t a[4], b[2];
  for (int r = 0; r < 4; ++r)
    a[r] = *reinterpret_cast<const uint32_t*>(left + (lane / 4 + (r & 1) * 8) * kInner + lane % 4 * 4 + (r >> 1) * 16);
  for (int r = 0; r < 2; ++r) b[r] = *reinterpret_cast<const uint32_t*>(right + lane / 4 * kInner + lane % 4 * 4 + r * 16);
  typename Kernel::Sum d[chains][4] = {};
  __syncthreads();
  const long long before = now();
  for (int r = 0; r < rounds; ++r)
#pragma unroll
    for (int c = 0; c < chains; ++c) Kernel::issue(d[c], a, b);
#pragma unroll
  for (int c = 0; c < chains; ++c) hold(d[c]);
  const long long took = now() - before;
  if (threadIdx.x == 0) cycles[blockIdx.x] = took;
  if (rounds == 1) {
    for (int i = 0; i < 4; ++i) out[(lane / 4 + (i >> 1) * 8) * 8 + lane % 4 * 2 + (i & 1)] = d[0][i];
    return;
  }
  typename Kernel::Sum sum = 0;
  for (int c = 0; c < chains; ++c)
    for (int i = 0; i < 4; ++i) sum += d[c][i];
  out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

struct WarpSuite {
  const Device& device;

  template <class Kernel>
  void operator()(Kernel) const {
    using Sum = typename Kernel::Sum;
    constexpr int chains = 4, threads = 512;
    const int blocks = device.processors * 2;
    const std::string name = std::string("mma ") + Kernel::type;
    Buffer<uint8_t> left(16 * kInner), right(8 * kInner);
    Buffer<Sum> out(std::max(size_t(128), size_t(blocks) * threads));
    Buffer<long long> cycles{size_t(blocks)};
    for (const bool zeros : {false, true}) {
      const Operand a = operand(Kernel::type, 16, zeros, 3), b = operand(Kernel::type, 8, zeros, 4);
      left.put(a.bytes), right.put(b.bytes);
      warp_product<Kernel, 1><<<1, 32>>>(left.get(), right.get(), 1, out.get(), cycles.get());
      CHECK(cudaGetLastError());
      compare<Sum>(name.c_str(), a, b, 16, 8, Kernel::k, out.take());
      const int rounds = device.quick ? 4096 : 32768;
      Row row;
      row.name = name;
      row.detail = std::string("\"n\": 8, \"data\": \"") + (zeros ? "zeros" : "random") + "\"";
      if (!zeros) {
        row.suite = "latency";
        row.ns = over(timed(5, [&] {
          warp_product<Kernel, 1><<<1, 32>>>(left.get(), right.get(), rounds, out.get(), cycles.get());
        }), rounds);
        row.cycles = double(cycles.take()[0]) / rounds;
        row.method = "dependent sums of one warp";
        print(row);
      }
      row.suite = "throughput", row.cores = device.processors, row.cycles = 0;
      row.ns = over(timed(device.quick ? 3 : 7, [&] {
        warp_product<Kernel, chains><<<blocks, threads>>>(left.get(), right.get(), rounds, out.get(), cycles.get());
      }), double(rounds) * chains);
      row.rate = 2.0 * 16 * 8 * Kernel::k * (threads / 32) * blocks / quantile(row.ns, 0.5) * 1e9;
      row.unit = "op/s", row.method = "four sums a warp, all processors full, one step checked; ns of a step of every warp";
      print(row);
    }
  }
};

}  // namespace

void tensor_suite(const Device& device) {
  each_warp_kernel(WarpSuite{device});
  each_group_kernel(GroupSuite{device});
}

}  // namespace gpu
