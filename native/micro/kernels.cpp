// Which kernels there are here, what they compute on, and a few that any compiler can write.
#include "micro/kernels.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <string_view>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace trimtab::micro {
namespace {

// A few entries for processors without generated kernels: dependent steps in C++, which the empty statements keep.
constexpr int kSteps = 96;

template <int chains, class Step>
[[gnu::always_inline]] inline void repeat(uint64_t rounds, void* data, Step step) {
  const auto* from = static_cast<const uint64_t*>(data);
  uint64_t value[chains];
  const uint64_t a = from[8 * 13];
  for (int i = 0; i < chains; ++i) value[i] = from[8 * i];
  for (; rounds; --rounds)
    for (int s = 0; s < kSteps / chains; ++s)
#pragma GCC unroll 8
      for (int i = 0; i < chains; ++i) {
        value[i] = step(value[i], a);
        asm volatile("" : "+r"(value[i]));
      }
}

template <int chains>
void add_i64(uint64_t rounds, void* data) {
  repeat<chains>(rounds, data, [](uint64_t d, uint64_t a) { return d + a; });
}
template <int chains>
void mul_i64(uint64_t rounds, void* data) {
  repeat<chains>(rounds, data, [](uint64_t d, uint64_t a) { return d * a; });
}
void chase(uint64_t rounds, void* data) {
  void* at = *static_cast<void**>(data);
  for (; rounds; --rounds)
#pragma GCC unroll 96
    for (int s = 0; s < kSteps; ++s) {
      at = *static_cast<void**>(at);
      asm volatile("" : "+r"(at));
    }
}

const Kernel kPortable[] = {
    {"add_i64", "units", 64, 1, kSteps, 1, 0, Fill::int32, false, false, "", "add", add_i64<1>, nullptr, nullptr},
    {"add_i64", "units", 64, 8, kSteps, 1, 0, Fill::int32, false, false, "", "add", add_i64<8>, nullptr, nullptr},
    {"mul_i64", "units", 64, 1, kSteps, 1, 0, Fill::int32, false, false, "", "multiply", mul_i64<1>, nullptr, nullptr},
    {"mul_i64", "units", 64, 8, kSteps, 1, 0, Fill::int32, false, false, "", "multiply", mul_i64<8>, nullptr, nullptr},
    {"chase_64", "units", 64, 1, kSteps, 0, 8, Fill::self, false, false, "", "load", chase, nullptr, nullptr},
};

bool has(std::string_view feature) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (feature == "avx2") return __builtin_cpu_supports("avx2");
  if (feature == "fma") return __builtin_cpu_supports("fma");
  if (feature == "popcnt") return __builtin_cpu_supports("popcnt");
  if (feature == "avx512f") return __builtin_cpu_supports("avx512f");
  if (feature == "avx512bw") return __builtin_cpu_supports("avx512bw");
  if (feature == "avx512dq") return __builtin_cpu_supports("avx512dq");
  if (feature == "avx512vl") return __builtin_cpu_supports("avx512vl");
  if (feature == "avx512vnni") return __builtin_cpu_supports("avx512vnni");
  if (feature == "avx512bf16") return __builtin_cpu_supports("avx512bf16");
  if (feature == "avx512vbmi") return __builtin_cpu_supports("avx512vbmi");
  if (feature == "avx512vpopcntdq") return __builtin_cpu_supports("avx512vpopcntdq");
  if (feature == "f16c") {  // older compilers have no name for it
    unsigned a, b, c, d;
    return __builtin_cpu_supports("avx2") && __get_cpuid(1, &a, &b, &c, &d) && (c & (1u << 29));
  }
#endif
  return false;
}

struct Random {
  uint64_t state = 0x9E3779B97F4A7C15u;
  uint64_t next() {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state;
  }
  double unit() { return double(next() >> 11) * 0x1p-53; }          // [0, 1)
  double around() { return 2 * unit() - 1; }                        // [-1, 1)
};

template <class T>
void put(void* at, T value) {
  std::memcpy(at, &value, sizeof(value));
}

}  // namespace

std::span<const Kernel> portable() { return kPortable; }

bool runs_here(const Kernel& kernel) {
  for (std::string_view left = kernel.features; !left.empty();) {
    const size_t end = std::min(left.find(' '), left.size());
    if (!has(left.substr(0, end))) return false;
    left.remove_prefix(std::min(end + 1, left.size()));
  }
  return true;
}

std::vector<const Kernel*> kernels() {
  std::vector<const Kernel*> out;
  for (const Kernel& each : generated())
    if (runs_here(each)) out.push_back(&each);
  if (out.empty())
    for (const Kernel& each : portable()) out.push_back(&each);
  return out;
}

const Kernel* find(const char* name, int width, int chains) {
  for (const Kernel* each : kernels())
    if (std::string_view(name) == each->name && each->width == width && each->chains == chains) return each;
  return nullptr;
}

void fill(const Kernel& kernel, void* data, bool zeros) {
  Random random;
  auto* bytes = static_cast<uint8_t*>(data);
  if (zeros && kernel.fill != Fill::self) {
    std::memset(data, 0, kDataBytes);
    return;
  }
  for (int at = 0; at < kDataBytes; at += 8) {
    const int line = at / 64;  // the register that starts with it: 13 a, 14 b, 15 one
    uint8_t* to = bytes + at;
    switch (kernel.fill) {
      case Fill::f32:  // |a| is at most a half, so that sums of products converge
        for (int i = 0; i < 2; ++i)
          put(to + 4 * i, float(line == 15 ? -1 : line == 13 ? 0.25 + 0.25 * random.unit() : random.around()));
        break;
      case Fill::f64:
        put(to, line == 15 ? -1 : line == 13 ? 0.25 + 0.25 * random.unit() : random.around());
        break;
      case Fill::bf16:
        for (int i = 0; i < 4; ++i) {
          uint32_t bits;
          const float value = float(random.around());
          std::memcpy(&bits, &value, 4);
          put(to + 2 * i, uint16_t(bits >> 16));
        }
        break;
      case Fill::f16:  // sign, exponent between 2^-4 and 1, mantissa
        for (int i = 0; i < 4; ++i)
          put(to + 2 * i, uint16_t((random.next() & 0x83FF) | ((11 + random.next() % 4) << 10)));
        break;
      case Fill::int8:
        put(to, line == 15 ? 0x0001000100010001u : random.next());
        break;
      case Fill::int32:
        put(to, random.next() | 1);
        break;
      case Fill::index:  // of a 4-byte word in the table that starts at 2048
        for (int i = 0; i < 2; ++i) put(to + 4 * i, uint32_t(random.next() % 256));
        break;
      case Fill::self:
        put(to, reinterpret_cast<uintptr_t>(bytes + 1024 + at % 1024 / 64 * 64));
        break;
    }
  }
  if (kernel.fill == Fill::self)
    for (int line = 16; line < 32; ++line) put(bytes + 64 * line, reinterpret_cast<uintptr_t>(bytes + 64 * line));
}

}  // namespace trimtab::micro
