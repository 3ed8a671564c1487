// Distributed shared memory: latency of a load from a neighbour's, and throughput by pattern and cluster size.
#include "common.cuh"

namespace gpu {
namespace {

constexpr int kWords = 4096;

__device__ uint32_t rank() {
  uint32_t r;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
  return r;
}

__device__ void meet() {
  asm volatile("barrier.cluster.arrive.aligned;\n\tbarrier.cluster.wait.aligned;" ::: "memory");
}

// The address of `local` in the shared memory of block `of`.
__device__ uint32_t remote(const void* local, uint32_t of) {
  uint32_t at;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(at) : "r"(shared_address(local)), "r"(of));
  return at;
}

// Block 0 walks a ring that it has written into the memory of block `target`.
__global__ void chase(int target, int hops, long long* cycles, uint32_t* end) {
  __shared__ uint32_t ring[1024];
  meet();
  if (rank() == 0 && threadIdx.x == 0) {
    for (int i = 0; i < 1024; ++i)
      asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(remote(&ring[i], target)),
                   "r"(remote(&ring[(i + 33) % 1024], target)) : "memory");
  }
  meet();
  if (rank() == 0 && threadIdx.x == 0) {
    uint32_t at = remote(ring, target);
    const long long before = now();
#pragma unroll 4
    for (int i = 0; i < hops; ++i) asm volatile("ld.shared::cluster.u32 %0, [%0];" : "+r"(at)::"memory");
    *end = at;
    *cycles = now() - before;
  }
  meet();  // nobody leaves while its memory is read
}

enum Pattern { ring, pair, broadcast };

__global__ void exchange(int pattern, int size, int rounds, uint32_t* sums) {
  __shared__ uint4 data[kWords / 4];
  for (int i = threadIdx.x; i < kWords / 4; i += blockDim.x) data[i] = make_uint4(1, 1, 1, 1);
  meet();
  const uint32_t mine = rank(), from = pattern == ring ? (mine + 1) % size : pattern == pair ? mine ^ 1 : 0;
  const uint32_t base = remote(data, from);
  uint32_t sum = 0;
  for (int r = 0; r < rounds; ++r)
    for (int i = threadIdx.x; i < kWords / 4; i += blockDim.x) {
      uint4 v;
      asm volatile("ld.shared::cluster.v4.u32 {%0, %1, %2, %3}, [%4];"
                   : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(base + i * 16) : "memory");
      sum += v.x + v.y + v.z + v.w;
    }
  atomicAdd(sums + blockIdx.x, sum);
  meet();
}

template <class... Parameters, class... Arguments>
bool launch(void (*kernel)(Parameters...), int blocks, int threads, int size, Arguments... arguments) {
  if (size > 8 && cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                       cudaFuncAttributeNonPortableClusterSizeAllowed, 1) != cudaSuccess) {
    cudaGetLastError();
    return false;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(blocks), config.blockDim = dim3(threads);
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = unsigned(size), cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  config.attrs = &cluster, config.numAttrs = 1;
  if (cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...) == cudaSuccess) return true;
  cudaGetLastError();
  return false;
}

}  // namespace

void cluster_suite(const Device& device) {
  Buffer<long long> cycles(1);
  Buffer<uint32_t> end(1);
  const int hops = 32768;
  for (int size : {2, 4, 8, 16})
    for (int target = 0; target < size; target = target ? target * 2 : 1) {
      if (!launch(chase, size, 32, size, target, hops, cycles.get(), end.get())) continue;
      CHECK(cudaDeviceSynchronize());
      Row row;
      row.name = target ? "load distributed shared" : "load own shared by cluster address";
      row.suite = "latency", row.width_bits = 32;
      row.ns = over(timed(9, [&] { launch(chase, size, 32, size, target, hops, cycles.get(), end.get()); }), hops);
      row.cycles = double(cycles.take()[0]) / hops;
      row.method = "ring of addresses in another block's shared memory, one thread";
      row.detail = "\"cluster\": " + std::to_string(size) + ", \"target\": " + std::to_string(target);
      print(row);
    }
  const char* names[] = {"ring", "pair", "broadcast"};
  for (int size : {2, 4, 8, 16})
    for (int pattern : {ring, pair, broadcast})
      for (int threads : {128, 512, 1024}) {
        const int blocks = device.processors / size * size, rounds = 64;
        Buffer<uint32_t> sums{size_t(blocks)};
        CHECK(cudaMemset(sums.get(), 0, blocks * sizeof(uint32_t)));
        if (!launch(exchange, blocks, threads, size, pattern, size, rounds, sums.get())) continue;
        CHECK(cudaDeviceSynchronize());
        for (uint32_t sum : sums.take())
          if (sum != uint32_t(kWords) * rounds) {
            std::fprintf(stderr, "distributed shared memory: a block read %u of %u\n", sum, kWords * rounds);
            std::exit(1);
          }
        Row row;
        row.name = std::string("read distributed shared, ") + names[pattern];
        row.suite = "throughput", row.width_bits = 128, row.cores = blocks;
        row.ns = timed(device.quick ? 5 : 15, [&] { launch(exchange, blocks, threads, size, pattern, size, rounds, sums.get()); });
        row.rate = double(blocks) * kWords * 4 * rounds / quantile(row.ns, 0.5) * 1e9;
        row.unit = "B/s", row.method = "16 bytes a thread out of another block's shared memory, sums checked";
        row.detail = "\"cluster\": " + std::to_string(size) + ", \"threads\": " + std::to_string(threads);
        print(row);
      }
}

}  // namespace gpu
