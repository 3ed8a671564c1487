// Compiled with plain flags: each body below names the instructions it needs, and run time picks by CPUID.
#include "probe.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <new>
#include <stdexcept>

#include "bindings.h"
#include "exec/fork_join.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace trimtab {
namespace {

// Accumulators must live in registers at every optimisation level, so their loops are unrolled by decree.
#define PRAGMA(text) _Pragma(#text)
#define UNROLL(n) PRAGMA(GCC unroll n)

using Clock = std::chrono::steady_clock;

double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Results go here, so that no compiler may drop the work.
std::atomic<uint64_t> sink{0};

// ---- reading ------------------------------------------------------------------------------------------------

constexpr size_t kReadStep = 512;  // bytes of one round of a read loop

using Read = uint64_t (*)(const uint8_t*, size_t);  // bytes: a multiple of kReadStep

template <class Wide>
uint64_t fold(const Wide& wide) {
  uint64_t words[sizeof(Wide) / 8], total = 0;
  std::memcpy(words, &wide, sizeof(Wide));
  for (uint64_t word : words) total += word;
  return total;
}

uint64_t read_plain(const uint8_t* from, size_t bytes) {
  uint64_t sum[8] = {};
  for (size_t i = 0; i < bytes; i += 64) {
    uint64_t words[8];
    std::memcpy(words, from + i, 64);
    for (int j = 0; j < 8; ++j) sum[j] += words[j];
  }
  for (int j = 1; j < 8; ++j) sum[0] += sum[j];
  return sum[0];
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) uint64_t read_avx2(const uint8_t* from, size_t bytes) {
  __m256i sum[8];
  UNROLL(8) for (auto& s : sum) s = _mm256_setzero_si256();
  for (size_t i = 0; i < bytes; i += 256)
    UNROLL(8) for (int j = 0; j < 8; ++j)
      sum[j] = _mm256_add_epi64(sum[j], _mm256_load_si256(reinterpret_cast<const __m256i*>(from + i + 32 * j)));
  UNROLL(8) for (int j = 1; j < 8; ++j) sum[0] = _mm256_add_epi64(sum[0], sum[j]);
  return fold(sum[0]);
}

__attribute__((target("avx512f"))) uint64_t read_avx512(const uint8_t* from, size_t bytes) {
  __m512i sum[8];
  UNROLL(8) for (auto& s : sum) s = _mm512_setzero_si512();
  for (size_t i = 0; i < bytes; i += 512)
    UNROLL(8) for (int j = 0; j < 8; ++j) sum[j] = _mm512_add_epi64(sum[j], _mm512_load_si512(from + i + 64 * j));
  UNROLL(8) for (int j = 1; j < 8; ++j) sum[0] = _mm512_add_epi64(sum[0], sum[j]);
  return fold(sum[0]);
}
#endif

Read choose_read() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return read_avx512;
  if (__builtin_cpu_supports("avx2")) return read_avx2;
#endif
  return read_plain;
}

// Memory in huge pages where the system gives them, as weights are held.
struct Buffer {
  uint8_t* data;
  size_t bytes;
  explicit Buffer(size_t n) : bytes(n) {
    void* got = mmap(nullptr, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (got == MAP_FAILED) throw std::bad_alloc();
    data = static_cast<uint8_t*>(got);
#ifdef MADV_HUGEPAGE
    madvise(got, n, MADV_HUGEPAGE);
#endif
    std::memset(data, 1, n);
  }
  ~Buffer() { munmap(data, bytes); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
};

// ---- arithmetic: `rounds` rounds of 12 independent multiply-adds, enough to hide their latency -----------------

constexpr int kChains = 12;
constexpr int kRounds = 20'000;

struct Body {
  uint64_t (*run)(int rounds);
  double operations;  // of one round
  const char* kind;
};

uint64_t int8_plain(int rounds) {
  int32_t sum[kChains * 4] = {};
  int8_t a[kChains * 4], b[kChains * 4];
  for (int i = 0; i < kChains * 4; ++i) a[i] = int8_t(i), b[i] = int8_t(3 * i);
  for (int r = 0; r < rounds; ++r)
    for (int i = 0; i < kChains * 4; ++i) sum[i] = int32_t(uint32_t(sum[i]) + uint32_t(a[i] * (b[i] ^ (r & 1))));
  uint64_t total = 0;
  for (int32_t s : sum) total += uint64_t(uint32_t(s));
  return total;
}

uint64_t float_plain(int rounds) {
  float sum[kChains * 4] = {};
  for (int r = 0; r < rounds; ++r)
    for (int i = 0; i < kChains * 4; ++i) sum[i] = sum[i] * 0.5f + float(i);
  float total = 0;
  for (float s : sum) total += s;
  return uint64_t(total);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) uint64_t int8_avx2(int rounds) {
  __m256i sum[kChains];
  UNROLL(12) for (int i = 0; i < kChains; ++i) sum[i] = _mm256_set1_epi32(i);
  __m256i a = _mm256_set1_epi8(3);
  const __m256i b = _mm256_set1_epi8(5), ones = _mm256_set1_epi16(1);
  for (int r = 0; r < rounds; ++r) {
    asm volatile("" : "+x"(a));  // a new value as far as the compiler knows: products are not hoisted
    UNROLL(12) for (auto& s : sum) s = _mm256_add_epi32(s, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones));
  }
  UNROLL(12) for (int i = 1; i < kChains; ++i) sum[0] = _mm256_xor_si256(sum[0], sum[i]);
  return fold(sum[0]);
}

__attribute__((target("avx512f,avx512vnni"))) uint64_t int8_vnni(int rounds) {
  __m512i sum[kChains];
  UNROLL(12) for (int i = 0; i < kChains; ++i) sum[i] = _mm512_set1_epi32(i);
  const __m512i a = _mm512_set1_epi32(0x03030303), b = _mm512_set1_epi32(0x05050505);
  for (int r = 0; r < rounds; ++r)
    UNROLL(12) for (auto& s : sum) s = _mm512_dpbusd_epi32(s, a, b);
  UNROLL(12) for (int i = 1; i < kChains; ++i) sum[0] = _mm512_xor_si512(sum[0], sum[i]);
  return fold(sum[0]);
}

__attribute__((target("avx2,fma"))) uint64_t float_fma(int rounds) {
  __m256 sum[kChains];
  UNROLL(12) for (int i = 0; i < kChains; ++i) sum[i] = _mm256_set1_ps(float(i));
  const __m256 a = _mm256_set1_ps(0.5f), b = _mm256_set1_ps(1.0f);
  for (int r = 0; r < rounds; ++r)
    UNROLL(12) for (auto& s : sum) s = _mm256_fmadd_ps(s, a, b);
  UNROLL(12) for (int i = 1; i < kChains; ++i) sum[0] = _mm256_add_ps(sum[0], sum[i]);
  return fold(sum[0]);
}

__attribute__((target("avx512f"))) uint64_t float_fma512(int rounds) {
  __m512 sum[kChains];
  UNROLL(12) for (int i = 0; i < kChains; ++i) sum[i] = _mm512_set1_ps(float(i));
  const __m512 a = _mm512_set1_ps(0.5f), b = _mm512_set1_ps(1.0f);
  for (int r = 0; r < rounds; ++r)
    UNROLL(12) for (auto& s : sum) s = _mm512_fmadd_ps(s, a, b);
  UNROLL(12) for (int i = 1; i < kChains; ++i) sum[0] = _mm512_add_ps(sum[0], sum[i]);
  return fold(sum[0]);
}

__attribute__((target("avx512f,avx512bf16"))) uint64_t float_bf16(int rounds) {
  __m512 sum[kChains];
  UNROLL(12) for (int i = 0; i < kChains; ++i) sum[i] = _mm512_set1_ps(float(i));
  const __m512bh a = _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.5f), _mm512_set1_ps(0.25f)), b = a;
  for (int r = 0; r < rounds; ++r)
    UNROLL(12) for (auto& s : sum) s = _mm512_dpbf16_ps(s, a, b);
  UNROLL(12) for (int i = 1; i < kChains; ++i) sum[0] = _mm512_add_ps(sum[0], sum[i]);
  return fold(sum[0]);
}
#endif

Body choose_int8() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512vnni")) return {int8_vnni, 2.0 * 64 * kChains, "avx512-vnni"};
  if (__builtin_cpu_supports("avx2")) return {int8_avx2, 2.0 * 32 * kChains, "avx2-maddubs"};
#endif
  return {int8_plain, 2.0 * 4 * kChains, "portable"};
}

Body choose_float32() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return {float_fma512, 2.0 * 16 * kChains, "avx512-fma"};
  if (__builtin_cpu_supports("fma")) return {float_fma, 2.0 * 8 * kChains, "avx2-fma"};
#endif
  return {float_plain, 2.0 * 4 * kChains, "portable"};
}

// Without instructions for bf16 the processor multiplies it as float32.
Body choose_float() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512bf16")) return {float_bf16, 2.0 * 32 * kChains, "avx512-bf16"};
#endif
  return choose_float32();
}

// Calls work(thread) on every thread; returns the seconds from the first start to the last end.
template <class Work>
double together(exec::ForkJoin& threads, const Work& work) {
  const auto start = Clock::now();
  threads.run(work);
  return since(start);
}

Peak peak(const Body& body, int threads, double seconds) {
  std::vector<double> best(size_t(threads), 0.0);
  exec::ForkJoin all(threads);
  together(all, [&](int t) {
    const auto start = Clock::now();
    do {
      const auto block = Clock::now();
      sink += body.run(kRounds);
      best[size_t(t)] = std::max(best[size_t(t)], kRounds * body.operations / since(block));
    } while (since(start) < seconds);
  });
  double sum = 0;
  for (double rate : best) sum += rate;
  return {sum, body.kind};
}

void check(int threads, double seconds) {
  if (threads < 1 || threads > 1024) throw std::invalid_argument("threads must be 1 to 1024");
  if (!(seconds >= 0 && seconds <= 60)) throw std::invalid_argument("seconds must be 0 to 60");
}

}  // namespace

std::vector<double> read_rates(size_t bytes, int threads, double seconds) {
  check(threads, seconds);
  const size_t part = bytes / size_t(threads) / kReadStep * kReadStep;
  if (part == 0) throw std::invalid_argument("too few bytes to read");
  if (bytes > (size_t(1) << 36)) throw std::invalid_argument("too many bytes to read");
  Buffer buffer(part * size_t(threads));
  const Read read = choose_read();
  std::vector<double> rates;
  exec::ForkJoin all(threads);
  const auto start = Clock::now();
  do {
    const double took = together(all, [&](int t) { sink += read(buffer.data + size_t(t) * part, part); });
    rates.push_back(double(buffer.bytes) / took);
  } while (since(start) < seconds);
  return rates;
}

Peak int8_peak(int threads, double seconds) {
  check(threads, seconds);
  return peak(choose_int8(), threads, seconds);
}

Peak float_peak(int threads, double seconds) {
  check(threads, seconds);
  return peak(choose_float(), threads, seconds);
}

Peak float32_peak(int threads, double seconds) {
  check(threads, seconds);
  return peak(choose_float32(), threads, seconds);
}

}  // namespace trimtab

void bind_probe(nanobind::module_& m) {
  namespace nb = nanobind;
  using Guard = nb::call_guard<nb::gil_scoped_release>;
  using Pair = std::pair<double, std::string>;
  m.def("read_rates", &trimtab::read_rates, nb::arg("bytes"), nb::arg("threads"), nb::arg("seconds"), Guard(),
        "Bytes a second of each pass over `bytes` of memory.");
  auto pair = [](trimtab::Peak (*measure)(int, double)) {
    return [measure](int threads, double seconds) {
      const trimtab::Peak peak = measure(threads, seconds);
      return Pair(peak.per_second, peak.kind);
    };
  };
  m.def("int8_peak", pair(trimtab::int8_peak), nb::arg("threads"), nb::arg("seconds"), Guard(),
        "(operations a second, instruction) of 8-bit integer multiply-adds.");
  m.def("float_peak", pair(trimtab::float_peak), nb::arg("threads"), nb::arg("seconds"), Guard(),
        "(operations a second, instruction) of the fastest float multiply-adds: bf16 where there are instructions for it.");
  m.def("float32_peak", pair(trimtab::float32_peak), nb::arg("threads"), nb::arg("seconds"), Guard(),
        "(operations a second, instruction) of float32 multiply-adds.");
}
