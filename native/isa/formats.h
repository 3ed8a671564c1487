// One multiply a weight format; each lives in a file of its own so that they compile side by side.
#pragma once
#include "kernels.h"

namespace trimtab::TRIMTAB_ISA {

void multiply_q4(const Multiply&, int64_t begin, int64_t end);
void multiply_q8(const Multiply&, int64_t begin, int64_t end);
void multiply_int8(const Multiply&, int64_t begin, int64_t end);
void multiply_bf16(const Multiply&, int64_t begin, int64_t end);

}  // namespace trimtab::TRIMTAB_ISA
