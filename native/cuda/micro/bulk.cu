// One-dimensional bulk copies into shared memory: throughput by box size and blocks, and latency.
#include "common.cuh"

namespace gpu {
namespace {

constexpr int kStages = 2;

__device__ void arrive_expecting(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ void copy(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
               "l"(from), "r"(bytes), "r"(barrier) : "memory");
}

__device__ void await(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n\t.reg .pred done;\n"
      "again:\n\tmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n\t@!done bra again;\n\t}"
      ::"r"(barrier), "r"(parity) : "memory");
}

// Each block fetches boxes of its own, kStages of them under way; thread 0 drives, all add one word of each box.
__global__ void fetch(const uint8_t* from, uint32_t box, int boxes, unsigned long long* sum) {
  extern __shared__ __align__(128) uint8_t stage[];
  __shared__ __align__(8) uint64_t barriers[kStages];
  const uint8_t* mine = from + size_t(blockIdx.x) * boxes * box;
  uint32_t bars[kStages];
  for (int s = 0; s < kStages; ++s) bars[s] = shared_address(&barriers[s]);
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(bars[s]) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  auto start = [&](int k) {
    const int s = k % kStages;
    arrive_expecting(bars[s], box);
    copy(shared_address(stage + s * box), mine + size_t(k) * box, box, bars[s]);
  };
  if (threadIdx.x == 0)
    for (int k = 0; k < kStages && k < boxes; ++k) start(k);
  unsigned long long found = 0;
  for (int k = 0; k < boxes; ++k) {
    const int s = k % kStages;
    await(bars[s], (k / kStages) & 1);
    if (threadIdx.x == 0) found += *reinterpret_cast<uint32_t*>(stage + s * box + box - 4);
    __syncthreads();  // the stage has been read and may be overwritten
    if (threadIdx.x == 0 && k + kStages < boxes) {
      asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
      start(k + kStages);
    }
  }
  if (threadIdx.x == 0) atomicAdd(sum, found);
}

// Each copy says where the next one comes from.
__global__ void chase(const uint8_t* base, int hops, long long* cycles, uint64_t* end) {
  __shared__ __align__(128) uint64_t box[16];
  __shared__ __align__(8) uint64_t barrier;
  const uint32_t bar = shared_address(&barrier);
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(bar) : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  uint64_t at = 0;
  long long before = 0;
  const int warm = 64;
  for (int i = 0; i < warm + hops; ++i) {
    if (i == warm) before = now();
    arrive_expecting(bar, 128);
    copy(shared_address(box), base + at, 128, bar);
    await(bar, i & 1);
    at = *static_cast<volatile uint64_t*>(box);
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  }
  *cycles = now() - before;
  *end = at;
}

}  // namespace

void bulk_suite(const Device& device) {
  Buffer<unsigned long long> sum(1);
  const size_t whole = device.quick ? size_t(256) << 20 : size_t(2) << 30;
  Buffer<uint32_t> data(whole / 4);
  data.put(std::vector<uint32_t>(whole / 4, 1));
  for (uint32_t box = 1024; box <= 65536; box *= 2)
    for (int per : {1, 2, 4}) {
      const size_t shared = size_t(box) * kStages;
      if (shared * per > device.properties.sharedMemPerMultiprocessor - 2048 * per ||
          cudaFuncSetAttribute(fetch, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared)) != cudaSuccess) {
        cudaGetLastError();
        continue;
      }
      const int blocks = device.processors * per, boxes = int(whole / blocks / box);
      auto run = [&] { fetch<<<blocks, 32, shared>>>(reinterpret_cast<uint8_t*>(data.get()), box, boxes, sum.get()); };
      CHECK(cudaMemset(sum.get(), 0, sizeof(unsigned long long)));
      run();
      CHECK(cudaDeviceSynchronize());
      if (sum.take()[0] != static_cast<unsigned long long>(blocks) * boxes) {
        std::fprintf(stderr, "bulk copies: %llu boxes came of %llu\n", sum.take()[0],
                     static_cast<unsigned long long>(blocks) * boxes);
        std::exit(1);
      }
      Row row;
      row.name = "bulk copy", row.suite = "throughput", row.cores = device.processors;
      row.ns = timed(device.quick ? 3 : 9, run);
      row.rate = double(blocks) * boxes * box / quantile(row.ns, 0.5) * 1e9;
      row.unit = "B/s", row.method = "cp.async.bulk global to shared, two boxes under way a block, boxes counted";
      row.detail = "\"box_bytes\": " + std::to_string(box) + ", \"blocks\": " + std::to_string(per);
      print(row);
    }
  for (size_t bytes : {size_t(4) << 20, whole}) {
    const size_t count = bytes / 128, words = 16;
    std::vector<uint64_t> image(count * words, 0);
    for (size_t i = 0, at = 0; i < count; ++i) {  // a full cycle: the step is odd, the count a power of two
      const size_t next = (at + 0x9E3779B1u) % count;
      image[at * words] = next * 128;
      at = next;
    }
    Buffer<uint64_t> ring(count * words), end(1);
    Buffer<long long> cycles(1);
    ring.put(image);
    const int hops = 4096;
    Row row;
    row.name = "bulk copy", row.suite = "latency";
    row.ns = over(timed(9, [&] {
      chase<<<1, 1>>>(reinterpret_cast<uint8_t*>(ring.get()), hops, cycles.get(), end.get());
    }), hops);
    row.cycles = double(cycles.take()[0]) / hops;
    row.method = "copies of 128 bytes, each holding the next one's address";
    row.detail = "\"bytes\": " + std::to_string(bytes);
    print(row);
  }
}

}  // namespace gpu
