// STREAM on a GPU, through the same algorithms, function objects and checks as on a processor.
#pragma once
#include <vector>

#include "stream/pass.h"

namespace trimtab {

// GPUs that can be used; 0 without a driver.
int cuda_devices();

// Seconds of each pass over arrays of n numbers, by pattern and round; throws std::runtime_error when a result is
// wrong, or the device fails.
std::vector<std::vector<double>> cuda_stream(int device, Number, int64_t n, const std::vector<Pattern>&, int rounds);

}  // namespace trimtab
