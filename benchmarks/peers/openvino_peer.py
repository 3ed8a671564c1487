"""Drives OpenVINO GenAI: the GGUF file read directly, or weights compressed to int8 or int4 by its own tools.

Best settings: all threads, latency hint for one sequence, both attention back ends by trial; the runtime
chooses int8 activations and an int8 cache by itself on processors with VNNI.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as genai
from protocol import resident_bytes, serve

WEIGHTS = {"int8": {"bits": 8}, "int4": {"bits": 4, "sym": False, "group_size": 32, "ratio": 1.0}}


class OpenVino:
    def load(self, model: str, threads: int, sequences: int = 1, positions: int = 1024) -> dict[str, Any]:
        self._path, self._threads, self._sequences = model, threads, sequences
        self._positions, self._backend = positions, ""
        start = time.perf_counter()
        self._renew()
        return {
            "name": "OpenVINO GenAI",
            "version": genai.__version__,
            "seconds": time.perf_counter() - start,
            "resident_bytes": resident_bytes(),
        }

    def decode(self, prompt: list[int], tokens: int, **how: Any) -> dict[str, Any]:
        self._renew(**how)
        result = self._generate([prompt], tokens)
        metrics, output = result.perf_metrics, list(result.tokens[0])
        if len(output) != tokens:
            raise ValueError(f"{len(output)} tokens came, {tokens} were asked for")
        return {
            "seconds": metrics.get_tpot().mean / 1e3 * (tokens - 1),
            "tokens": tokens - 1,
            "first_seconds": metrics.get_ttft().mean / 1e3,
            "output": [int(token) for token in output],
        }

    def prefill(self, prompt: list[int], **how: Any) -> dict[str, Any]:
        self._renew(**how)
        start = time.perf_counter()
        self._generate([prompt], 1)
        return {"seconds": time.perf_counter() - start, "tokens": len(prompt)}

    def batch(self, prompts: list[list[int]], tokens: int, **how: Any) -> dict[str, Any]:
        self._renew(**how)
        start = time.perf_counter()
        result = self._generate(prompts, tokens)
        seconds = time.perf_counter() - start
        made = sum(len(output) for output in result.tokens)
        return {"seconds": seconds, "tokens": made, "step_seconds": result.perf_metrics.get_tpot().mean / 1e3}

    def prepare(self, model: str, path: str, form: str) -> dict[str, Any]:
        """A safetensors folder as OpenVINO's own model with compressed weights."""
        from openvino_tokenizers import convert_tokenizer
        from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig
        from transformers import AutoTokenizer

        part = Path(path + ".part")
        settings = OVWeightQuantizationConfig(**WEIGHTS[form])
        OVModelForCausalLM.from_pretrained(model, export=True, quantization_config=settings).save_pretrained(
            part
        )
        tokenizer = AutoTokenizer.from_pretrained(model)
        tokenizer.save_pretrained(part)
        for name, graph in zip(
            ("tokenizer", "detokenizer"), convert_tokenizer(tokenizer, with_detokenizer=True), strict=True
        ):
            ov.save_model(graph, part / f"openvino_{name}.xml")
        part.rename(path)
        return {"path": path}

    def _renew(self, backend: str = "PA") -> None:
        """A pipeline with this attention back end: paged (`PA`) or stateful (`SDPA`)."""
        if backend == self._backend:
            return
        settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": self._threads, "ATTENTION_BACKEND": backend}
        settings["PERFORMANCE_HINT"] = "LATENCY"
        if backend == "PA":
            scheduler = genai.SchedulerConfig()
            scheduler.max_num_batched_tokens = 4096
            scheduler.max_num_seqs = max(self._sequences, 1)
            scheduler.enable_prefix_caching = False
            scheduler.cache_size = 1
            settings["scheduler_config"] = scheduler
        self._backend = ""
        self._pipe = genai.LLMPipeline(self._path, "CPU", **settings)
        self._backend = backend

    def _generate(self, prompts: list[list[int]], tokens: int) -> genai.EncodedResults:
        config = genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = tokens, True, False
        config.apply_chat_template = False
        ids = np.array(prompts, np.int64)
        inputs = genai.TokenizedInputs(ov.Tensor(ids), ov.Tensor(np.ones_like(ids)))
        return self._pipe.generate(inputs, config)


if __name__ == "__main__":
    serve(OpenVino())
