// What one kernel costs on one core or on all of them, in core cycles and in nanoseconds.
#pragma once
#include <vector>

#include "micro/kernels.h"

namespace trimtab::micro {

struct Sample {
  double cycles, ns;  // of one step
  double hz;          // the core's frequency around it
};

// One list of samples for each processor in `cpus`, whose threads run at the same time.
std::vector<std::vector<Sample>> time_kernel(const Kernel& kernel, int samples, const std::vector<int>& cpus, bool zeros);

// Frequency of the calling thread's core, by the chain of additions.
std::vector<double> frequencies(int samples);

}  // namespace trimtab::micro
