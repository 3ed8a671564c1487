// The executor that runs the engine's kernels; another one can be built in to compare with (CMake, TRIMTAB_EXECUTOR).
#pragma once
#if defined(TRIMTAB_EXECUTOR_openmp)
#include "exec/openmp.h"
#elif defined(TRIMTAB_EXECUTOR_async)
#include "exec/async.h"
#else
#include "exec/fork_join.h"
#endif

namespace trimtab {

#if defined(TRIMTAB_EXECUTOR_openmp)
using Pool = exec::OpenMp;
constexpr const char* kExecutor = "openmp";
#elif defined(TRIMTAB_EXECUTOR_async)
using Pool = exec::Async;
constexpr const char* kExecutor = "async";
#else
using Pool = exec::ForkJoin;
constexpr const char* kExecutor = "fork_join";
#endif

}  // namespace trimtab
