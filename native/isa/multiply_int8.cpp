#include "isa/formats.h"
#include "isa/multiply.h"

namespace trimtab::TRIMTAB_ISA {

void multiply_int8(const Multiply& m, int64_t begin, int64_t end) { run_format<Int8Weights>(m, begin, end); }

}  // namespace trimtab::TRIMTAB_ISA
