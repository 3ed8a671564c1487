// The executor that runs the engine's kernels; another one can be built in to compare with (CMake, TRIMTAB_EXECUTOR).
#pragma once
#include "exec/fork_join.h"

namespace trimtab {

using Pool = exec::ForkJoin;

}  // namespace trimtab
