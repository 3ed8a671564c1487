// The kernel sets that were built, and what of the processor each needs: the choice is a table, best first.
#pragma once
#include <string>
#include <vector>

#include "kernels.h"

namespace trimtab {

struct Feature {
  const char* name;
  bool (*present)();
};

struct KernelSet {
  const char* name;
  std::vector<Feature> needs;
  const Kernels* (*table)();

  std::vector<std::string> missing() const;
};

const std::vector<KernelSet>& kernel_sets();

}  // namespace trimtab
