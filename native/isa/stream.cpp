// The passes of STREAM with this instruction set's registers.
#include "isa/stream.h"

namespace trimtab::TRIMTAB_ISA {

double stream_pass(Pattern pattern, Number number, const StreamArrays& arrays, exec::AnyExecutor on, bool streaming) {
  const exec::Store store = streaming ? exec::Store::streaming : exec::Store::plain;
  switch (number) {
    case Number::f64: return exec::stream_pass<double>(pattern, arrays, on, store);
    case Number::f32: return exec::stream_pass<float>(pattern, arrays, on, store);
    case Number::bf16: return exec::stream_pass<exec::Bf16>(pattern, arrays, on, store);
  }
  return 0;
}

}  // namespace trimtab::TRIMTAB_ISA
