#include "isa/formats.h"
#include "isa/multiply.h"

namespace trimtab::TRIMTAB_ISA {

void multiply_q8(const Multiply& m, int64_t begin, int64_t end) {
  const Format f = m.format;
  if (f.group == 32)
    return f.minima ? run_format<GroupedWeights<8, 32, true>>(m, begin, end)
                    : run_format<GroupedWeights<8, 32, false>>(m, begin, end);
  return f.minima ? run_format<GroupedWeights<8, 16, true>>(m, begin, end)
                  : run_format<GroupedWeights<8, 16, false>>(m, begin, end);
}

}  // namespace trimtab::TRIMTAB_ISA
