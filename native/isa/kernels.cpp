// The table of one instruction set. The files of this folder are compiled once for each set (CMakeLists.txt),
// so they must not use inline functions of the standard library: the linker would keep one copy for all sets.
#include "isa/attention.h"
#include "isa/formats.h"
#include "isa/pack.h"
#include "isa/rows.h"
#include "isa/stream.h"

namespace trimtab {
namespace TRIMTAB_ISA {

static void multiply(const Multiply& m, int64_t begin, int64_t end) {
  const Format f = m.format;
  if (f.kind == Format::int8) return multiply_int8(m, begin, end);
  if (f.kind == Format::bf16) return multiply_bf16(m, begin, end);
  return f.bits == 4 ? multiply_q4(m, begin, end) : multiply_q8(m, begin, end);
}

#define TRIMTAB_TEXT_OF(x) #x
#define TRIMTAB_TEXT(x) TRIMTAB_TEXT_OF(x)
static const Kernels table = {TRIMTAB_TEXT(TRIMTAB_ISA), kMaxRows, kManyRows, multiply,   pack_row,   norm_row,
                              rope_store,                attend,   add_row,   unpack_row, softcap_row,
                              stream_pass,               kStores};

}  // namespace TRIMTAB_ISA

#if defined(TRIMTAB_ISA_avx512)
const Kernels* avx512_kernels() { return &TRIMTAB_ISA::table; }
#elif defined(TRIMTAB_ISA_avx2)
const Kernels* avx2_kernels() { return &TRIMTAB_ISA::table; }
#else
const Kernels* portable_kernels() { return &TRIMTAB_ISA::table; }
#endif

}  // namespace trimtab
