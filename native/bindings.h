// Every source file that exports something to Python declares its binder here; module.cpp calls them all.
#pragma once
#include <nanobind/nanobind.h>

void bind_ggml(nanobind::module_& m);
void bind_gguf_strings(nanobind::module_& m);
void bind_sampler(nanobind::module_& m);
void bind_probe(nanobind::module_& m);
void bind_exec(nanobind::module_& m);
void bind_stream(nanobind::module_& m);
void bind_recorder(nanobind::module_& m);
void bind_image(nanobind::module_& m);
void bind_core(nanobind::module_& m);
void bind_disk(nanobind::module_& m);
void bind_micro(nanobind::module_& m);
void bind_timing(nanobind::module_& m);
