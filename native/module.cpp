// The extension module `trimtab._native`.
#include <nanobind/nanobind.h>

#include "bindings.h"

NB_MODULE(_native, m) {
  m.doc() = "Kernels, thread pool and step programs of trimtab";
  bind_ggml(m);
  bind_gguf_strings(m);
  bind_sampler(m);
  bind_probe(m);
  bind_core(m);
}
