"""Drives vLLM's CPU build in its own process, through the engine's own step loop.

Best settings: bf16, graph capture as the build chooses it, all threads bound to cores, prefix caching off (no
prompt comes twice), room for every sequence, and the Intel OpenMP library that its guide asks for.
"""

from __future__ import annotations

import time
from typing import Any

from protocol import batch_answer, decode_answer, resident_bytes, serve


class Vllm:
    def load(self, model: str, threads: int, sequences: int = 1, positions: int = 1024) -> dict[str, Any]:
        import torch
        import vllm

        start = time.perf_counter()
        self._params = vllm.SamplingParams
        self._llm = vllm.LLM(
            model, dtype="bfloat16", max_model_len=max(positions, 1024), max_num_seqs=max(sequences, 8),
            max_num_batched_tokens=max(4096, positions), enable_prefix_caching=False, disable_log_stats=True,
        )  # fmt: skip
        self._engine, self._serial = self._llm.llm_engine, 0
        return {
            "name": "vLLM CPU",
            "version": f"{vllm.__version__}, torch {torch.__version__}",
            "seconds": time.perf_counter() - start,
            "resident_bytes": resident_bytes(),
        }

    def decode(self, prompt: list[int], tokens: int) -> dict[str, Any]:
        start = time.perf_counter()
        times, outputs = self._run([prompt], tokens)
        return decode_answer(times[-tokens:], start, outputs[0])

    def prefill(self, prompt: list[int]) -> dict[str, Any]:
        start = time.perf_counter()
        times, _ = self._run([prompt], 1)
        return {"seconds": times[-1] - start, "tokens": len(prompt)}

    def batch(self, prompts: list[list[int]], tokens: int) -> dict[str, Any]:
        start = time.perf_counter()
        times, outputs = self._run(prompts, tokens)
        return batch_answer(start, times[-1], sum(map(len, outputs)), times[-tokens:])

    def score(self, tokens: list[int], first: int) -> dict[str, Any]:
        params = self._params(max_tokens=1, temperature=0.0, prompt_logprobs=0)
        (answer,) = self._llm.generate([{"prompt_token_ids": tokens}], params, use_tqdm=False)
        rows = zip(answer.prompt_logprobs[first:], tokens[first:], strict=True)
        return {"nll": -sum(row[token].logprob for row, token in rows), "count": len(tokens) - first}

    def _run(self, prompts: list[list[int]], tokens: int) -> tuple[list[float], list[list[int]]]:
        """The moments after each step, and the outputs."""
        params = self._params(
            max_tokens=tokens, min_tokens=tokens, temperature=0.0, ignore_eos=True, detokenize=False
        )
        for prompt in prompts:
            self._serial += 1
            self._engine.add_request(str(self._serial), {"prompt_token_ids": prompt}, params)
        times, outputs = [], {}
        while self._engine.has_unfinished_requests():
            for answer in self._engine.step():
                outputs[int(answer.request_id)] = list(answer.outputs[0].token_ids)
            times.append(time.perf_counter())
        return times, [outputs[name] for name in sorted(outputs)]


if __name__ == "__main__":
    serve(Vllm())
