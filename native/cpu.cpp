// Which set of kernels this processor runs: the best by CPUID, or the one asked for by name.
#include <stdexcept>
#include <string>

#include "kernels.h"

namespace trimtab {

const Kernels* choose_kernels(const char* wanted) {
  const std::string name = wanted ? wanted : "";
  std::string choices = "portable";
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16") &&
                      __builtin_cpu_supports("avx512vbmi");
  if (avx512 && (name.empty() || name == "avx512")) return avx512_kernels();
  if (avx2 && (name.empty() || name == "avx2")) return avx2_kernels();
  if (avx2) choices = "avx2, " + choices;
  if (avx512) choices = "avx512, " + choices;
#endif
  if (name.empty() || name == "portable") return portable_kernels();
  throw std::invalid_argument("no kernels `" + name + "` on this processor; it runs: " + choices);
}

}  // namespace trimtab
