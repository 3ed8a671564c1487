// The passes of STREAM as an entry of the table of kernels.
#pragma once
#include "stream/pass.h"

namespace trimtab::TRIMTAB_ISA {

double stream_pass(Pattern, Number, const StreamArrays&, exec::AnyExecutor, bool streaming);

// The store instructions of its loops: {plain, streaming} for doubles, then for the narrower types.
#if defined(__AVX512F__)
constexpr const char* kStores[] = {"vmovups zmm", "vmovntpd zmm", "vmovntps zmm"};
#elif defined(__AVX__)
constexpr const char* kStores[] = {"vmovups ymm", "vmovntpd ymm", "vmovntps ymm"};
#elif defined(__x86_64__)
constexpr const char* kStores[] = {"movups xmm", "movntpd xmm", "movntps xmm"};
#else
constexpr const char* kStores[] = {"vector", "vector", "vector"};
#endif

}  // namespace trimtab::TRIMTAB_ISA
