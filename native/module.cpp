// The extension module `trimtab._native`.
#include <nanobind/nanobind.h>

#include "bindings.h"

#if defined(__GLIBC__)
#include <malloc.h>
#endif

NB_MODULE(_native, m) {
  m.doc() = "Kernels, thread pool and step programs of trimtab";
  bind_ggml(m);
  bind_gguf_strings(m);
  bind_sampler(m);
  bind_probe(m);
  bind_exec(m);
  bind_recorder(m);
  bind_core(m);
  bind_disk(m);
  bind_stream(m);
  bind_micro(m);
  bind_timing(m);
  bind_image(m);
  m.def("trim_heap", [] {
#if defined(__GLIBC__)
    malloc_trim(0);
#endif
  }, "Give freed memory back to the system, where the C library would keep it.");
}
