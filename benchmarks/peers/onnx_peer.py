"""Drives ONNX Runtime GenAI with a model that its own builder made from the safetensors folder.

Best settings: int4 weights in blocks of 32 with int8 arithmetic (accuracy level 4), or int8 weights; all
threads; no spinning while idle matters here, because idle contenders are stopped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

import numpy as np
import onnxruntime_genai as genai
from protocol import batch_answer, decode_answer, resident_bytes, serve

BUILDS = {
    "int4": ["-p", "int4", "--extra_options", "int4_block_size=32", "int4_accuracy_level=4"],
    "int8": ["-p", "int8"],
}


class Onnx:
    def load(self, model: str, threads: int, sequences: int = 1, positions: int = 1024) -> dict[str, Any]:
        start = time.perf_counter()
        config = genai.Config(model)
        options = {"intra_op_num_threads": threads, "inter_op_num_threads": 1}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        self._model = genai.Model(config)
        return {
            "name": "ONNX Runtime GenAI",
            "version": genai.__version__,
            "seconds": time.perf_counter() - start,
            "resident_bytes": resident_bytes(),
        }

    def decode(self, prompt: list[int], tokens: int) -> dict[str, Any]:
        start = time.perf_counter()
        times, outputs = self._run([prompt], tokens)
        return decode_answer(times, start, outputs[0])

    def prefill(self, prompt: list[int]) -> dict[str, Any]:
        start = time.perf_counter()
        times, _ = self._run([prompt], 1)
        return {"seconds": times[0] - start, "tokens": len(prompt)}

    def batch(self, prompts: list[list[int]], tokens: int) -> dict[str, Any]:
        start = time.perf_counter()
        times, outputs = self._run(prompts, tokens)
        return batch_answer(start, times[-1], sum(map(len, outputs)), times)

    def prepare(self, model: str, path: str, form: str) -> dict[str, Any]:
        part = path + ".part"
        command = [
            sys.executable,
            "-m",
            "onnxruntime_genai.models.builder",
            "-m",
            model,
            "-i",
            model,
            "-o",
            part,
        ]
        subprocess.run([*command, "-e", "cpu", "-c", part + ".cache", *BUILDS[form]], check=True)
        os.rename(part, path)
        return {"path": path}

    def _run(self, prompts: list[list[int]], tokens: int) -> tuple[list[float], list[list[int]]]:
        """The moments after each token, and the outputs."""
        length = len(prompts[0]) + tokens
        params = genai.GeneratorParams(self._model)
        params.set_search_options(
            batch_size=len(prompts), max_length=length, min_length=length, do_sample=False
        )
        generator = genai.Generator(self._model, params)
        generator.append_tokens(np.array(prompts, np.int32))
        times = []
        while len(times) < tokens:
            generator.generate_next_token()
            times.append(time.perf_counter())
        return times, [[int(t) for t in generator.get_sequence(i)[-tokens:]] for i in range(len(prompts))]


if __name__ == "__main__":
    serve(Onnx())
