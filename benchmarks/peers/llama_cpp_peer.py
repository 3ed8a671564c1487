"""Drives llama.cpp through its C interface, as llama-cpp-python exposes it.

Best settings: the processor's own build, all threads, batched `llama_decode` without the Python wrapper's
cost a token, greedy choice by numpy's argmax over the logits (cheaper than its sampler chain), flash
attention and a unified cache on or off by trial.
"""

from __future__ import annotations

import ctypes
import os
import time
from typing import Any

import llama_cpp as lib
import numpy as np
from protocol import batch_answer, decode_answer, resident_bytes, serve

FORMS = {"q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_1": 9}  # llama.cpp's own numbers of file types


class LlamaCpp:
    def load(self, model: str, threads: int, sequences: int = 1, positions: int = 1024) -> dict[str, Any]:
        lib.llama_backend_init()
        lib.llama_log_set(_quiet, ctypes.c_void_p(0))
        start = time.perf_counter()
        settings = lib.llama_model_default_params()
        settings.n_gpu_layers = 0
        self._model = lib.llama_model_load_from_file(model.encode(), settings)
        if not self._model:
            raise ValueError(f"llama.cpp cannot load {model}")
        self._vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self._model))
        self._threads, self._sequences, self._positions = threads, sequences, positions
        self._context, self._made_with, self._batch = None, None, None
        self._renew(flash=True, unified=True, micro=512)
        return {
            "name": "llama.cpp",
            "version": lib.__version__,
            "seconds": time.perf_counter() - start,
            "resident_bytes": resident_bytes(),
            "build": lib.llama_print_system_info().decode(),
        }

    def decode(self, prompt: list[int], tokens: int, **how: Any) -> dict[str, Any]:
        self._renew(**how)
        start = time.perf_counter()
        next_token = self._feed([prompt], [0])[0]
        times, output = [time.perf_counter()], [next_token]
        while len(output) < tokens:
            next_token = self._feed([[next_token]], [len(prompt) + len(output) - 1])[0]
            times.append(time.perf_counter())
            output.append(next_token)
        return decode_answer(times, start, output)

    def prefill(self, prompt: list[int], **how: Any) -> dict[str, Any]:
        self._renew(**how)
        start = time.perf_counter()
        self._feed([prompt], [0])
        return {"seconds": time.perf_counter() - start, "tokens": len(prompt)}

    def batch(self, prompts: list[list[int]], tokens: int, **how: Any) -> dict[str, Any]:
        self._renew(**how)
        start = time.perf_counter()
        newest: list[int] = []
        group = max(1, self._capacity // max(map(len, prompts)))  # whole prompts that one call takes
        for first in range(0, len(prompts), group):
            part = prompts[first : first + group]
            newest += self._feed(part, [0] * len(part), first)
        lengths, steps = [len(prompt) for prompt in prompts], [time.perf_counter()]
        for _ in range(tokens - 1):
            newest = self._feed([[token] for token in newest], lengths)
            lengths = [length + 1 for length in lengths]
            steps.append(time.perf_counter())
        return batch_answer(start, steps[-1], tokens * len(prompts), steps)

    def score(self, tokens: list[int], first: int, **how: Any) -> dict[str, Any]:
        rows = self._all_logits(tokens, **how)[first - 1 : -1].astype(np.float64)
        top = rows.max(axis=1)
        norm = top + np.log(np.exp(rows - top[:, None]).sum(axis=1))
        chosen = rows[np.arange(len(rows)), tokens[first:]]
        return {"nll": float((norm - chosen).sum()), "count": len(rows)}

    def logits(self, tokens: list[int], path: str, **how: Any) -> dict[str, Any]:
        np.save(path, self._all_logits(tokens, **how))
        return {"path": path}

    def prepare(self, model: str, path: str, form: str) -> dict[str, Any]:
        """Requantize a GGUF file with llama.cpp's own tool."""
        settings = lib.llama_model_quantize_default_params()
        settings.ftype, settings.allow_requantize, settings.nthread = FORMS[form], True, 2
        part = path + ".part"
        if lib.llama_model_quantize(model.encode(), part.encode(), ctypes.byref(settings)):
            raise ValueError(f"llama.cpp cannot requantize {model} to {form}")
        os.rename(part, path)
        return {"path": path}

    def _renew(self, flash: bool = True, unified: bool = True, micro: int = 512) -> None:
        """An empty cache, in a context with these settings; made again only when they change."""
        if self._made_with != (flash, unified, micro):
            if self._context:
                lib.llama_free(self._context)
            settings = lib.llama_context_default_params()
            settings.n_ctx = self._sequences * self._positions
            settings.n_seq_max = self._sequences
            settings.n_batch, settings.n_ubatch = 2048, micro
            settings.n_threads = settings.n_threads_batch = self._threads
            settings.flash_attn_type = 1 if flash else 0
            settings.kv_unified = unified
            settings.no_perf = True
            self._context = lib.llama_init_from_model(self._model, settings)
            if not self._context:
                self._made_with = None
                raise ValueError(f"llama.cpp makes no context with flash={flash} unified={unified}")
            self._capacity = lib.llama_n_batch(self._context)
            self._made_with = (flash, unified, micro)
            if self._batch is None:
                self._batch = lib.llama_batch_init(self._capacity, 0, 1)
        lib.llama_memory_clear(lib.llama_get_memory(self._context), True)

    def _feed(self, spans: list[list[int]], starts: list[int], first_sequence: int = 0) -> list[int]:
        """Run one span a sequence; return each one's most likely next token."""
        batch, row, wanted = self._batch, 0, []
        for index, (span, start) in enumerate(zip(spans, starts, strict=True)):
            for offset, token in enumerate(span):
                batch.token[row], batch.pos[row] = token, start + offset
                batch.n_seq_id[row], batch.seq_id[row][0] = 1, first_sequence + index
                batch.logits[row] = offset == len(span) - 1
                row += 1
            wanted.append(row - 1)
        self._decode(row)
        return [int(np.argmax(self._row(each))) for each in wanted]

    def _all_logits(self, tokens: list[int], **how: Any) -> np.ndarray:
        self._renew(**how)
        batch = self._batch
        for row, token in enumerate(tokens):
            batch.token[row], batch.pos[row], batch.logits[row] = token, row, True
            batch.n_seq_id[row], batch.seq_id[row][0] = 1, 0
        self._decode(len(tokens))
        return np.stack([self._row(row) for row in range(len(tokens))])

    def _decode(self, rows: int) -> None:
        self._batch.n_tokens = rows
        code = lib.llama_decode(self._context, self._batch)
        if code:
            raise ValueError(f"llama_decode answers {code}")

    def _row(self, row: int) -> np.ndarray:
        return np.ctypeslib.as_array(lib.llama_get_logits_ith(self._context, row), (self._vocabulary,))


@lib.llama_log_callback
def _quiet(level: int, text: bytes, data: object) -> None:
    """llama.cpp talks a lot; errors come back as codes."""


if __name__ == "__main__":
    serve(LlamaCpp())
