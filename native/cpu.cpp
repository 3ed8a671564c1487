// Which set of kernels this processor runs: the best by CPUID, or the one asked for by name.
#include "cpu.h"

#include <stdexcept>

namespace trimtab {
namespace {

// The builtin wants its name spelled out, so each feature is a function of its own.
#define FEATURE(name) \
  Feature { name, [] { return bool(__builtin_cpu_supports(name)); } }

std::vector<KernelSet> built() {
  std::vector<KernelSet> sets;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const std::vector<Feature> avx2 = {FEATURE("avx2"), FEATURE("fma"), FEATURE("bmi2")};
  std::vector<Feature> avx512 = avx2;
  for (const Feature& more : {FEATURE("avx512f"), FEATURE("avx512bw"), FEATURE("avx512dq"), FEATURE("avx512vl"),
                              FEATURE("avx512vnni"), FEATURE("avx512bf16"), FEATURE("avx512vbmi")})
    avx512.push_back(more);
  sets.push_back({"avx512", avx512, avx512_kernels});
  sets.push_back({"avx2", avx2, avx2_kernels});
#endif
  sets.push_back({"portable", {}, portable_kernels});
  return sets;
}

}  // namespace

std::vector<std::string> KernelSet::missing() const {
  std::vector<std::string> names;
  for (const Feature& feature : needs)
    if (!feature.present()) names.push_back(feature.name);
  return names;
}

const std::vector<KernelSet>& kernel_sets() {
  static const std::vector<KernelSet> sets = built();
  return sets;
}

const Kernels* choose_kernels(const char* wanted) {
  const std::string name = wanted ? wanted : "";
  std::string choices;
  for (const KernelSet& set : kernel_sets()) {
    if (!set.missing().empty()) continue;
    if (name.empty() || name == set.name) return set.table();
    choices += (choices.empty() ? "" : ", ") + std::string(set.name);
  }
  throw std::invalid_argument("no kernels `" + name + "` on this processor; it runs: " + choices);
}

}  // namespace trimtab
