#include "isa/formats.h"
#include "isa/multiply.h"

namespace trimtab::TRIMTAB_ISA {

void multiply_bf16(const Multiply& m, int64_t begin, int64_t end) {
  if (m.form.kind == Form::half) return run_format<Bf16Pairs>(m, begin, end);
  run_format<Bf16Weights>(m, begin, end);
}

}  // namespace trimtab::TRIMTAB_ISA
