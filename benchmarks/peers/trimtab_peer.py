"""Drives trimtab the way its server does: one engine, requests submitted together, tokens read by handle.

Prefix sharing is off, because no prompt comes twice. Drafting by prompt look-up is off unless asked for, so
that every contender computes every token; with it on, the figures are shown as a contender of their own.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from protocol import resident_bytes, serve

from trimtab import __version__
from trimtab.engine.batch import PAGE_TOKENS
from trimtab.engine.engine import Engine, EngineSettings
from trimtab.engine.runner import NativeRunner
from trimtab.engine.sampling import SamplingParams
from trimtab.formats.source import open_source
from trimtab.models.config import config_from
from trimtab.models.tokenizer import load_tokenizer


class Trimtab:
    def load(
        self, model: str, threads: int, sequences: int = 1, positions: int = 1024, drafting: bool = False,
        kv_type: str = "bf16", format: str = "auto", kernels: str = "", pin: bool = False,
        token_times: bool = False,
    ) -> dict[str, Any]:  # fmt: skip
        start = time.perf_counter()
        source = open_source(Path(model))
        config = config_from(source)
        runner = NativeRunner.open(
            source, config, num_pages=sequences * (-(-positions // PAGE_TOKENS) + 1),
            max_rows=max(512, sequences), max_wanted=max(64, sequences), context=max(positions, 1024),
            threads=threads, kv_type=kv_type, format=format, kernels=kernels, pin=pin,
        )  # fmt: skip
        settings = EngineSettings(
            max_running=max(64, sequences), sharing=False, drafting=drafting, token_times=token_times
        )
        self._engine = Engine(runner, load_tokenizer(source), settings)
        return {
            "name": "trimtab",
            "version": __version__,
            "seconds": time.perf_counter() - start,
            "resident_bytes": resident_bytes(),
            "weight_bytes": runner.step_bytes,
            "kernels": runner.kernels,
        }

    def decode(self, prompt: list[int], tokens: int) -> dict[str, Any]:
        done = self._engine.submit(prompt, _greedy(tokens)).result()
        return {
            "seconds": done.total_s - done.first_token_s,
            "tokens": tokens - 1,
            "first_seconds": done.first_token_s,
            "output": done.token_ids,
        }

    def prefill(self, prompt: list[int]) -> dict[str, Any]:
        start = time.perf_counter()
        self._engine.submit(prompt, _greedy(1)).result()
        return {"seconds": time.perf_counter() - start, "tokens": len(prompt)}

    def batch(self, prompts: list[list[int]], tokens: int) -> dict[str, Any]:
        start = time.perf_counter()
        with self._engine.hold():
            handles = [self._engine.submit(prompt, _greedy(tokens)) for prompt in prompts]
        done = [handle.result() for handle in handles]
        seconds = time.perf_counter() - start
        # From the last first token on, all of them decode together.
        together = max(each.total_s for each in done) - max(each.first_token_s for each in done)
        made = sum(len(each.token_ids) for each in done)
        return {"seconds": seconds, "tokens": made, "step_seconds": together / (tokens - 1)}

    def times(self, prompts: list[list[int]], tokens: int) -> dict[str, Any]:
        """When each step ended in which all decode together, in seconds; loaded with `token_times`."""
        with self._engine.hold():
            handles = [self._engine.submit(prompt, _greedy(tokens)) for prompt in prompts]
        for handle in handles:
            handle.result()
        times = [list(handle.sequence.times or ()) for handle in handles]
        begin, end = max(each[0] for each in times), min(each[-1] for each in times)
        return {"ends": [at for at in times[0] if begin <= at <= end]}

    def score(self, tokens: list[int], first: int) -> dict[str, Any]:
        rows = self._engine.logits(tokens)[first - 1 : -1].astype(np.float64)
        top = rows.max(axis=1)
        norm = top + np.log(np.exp(rows - top[:, None]).sum(axis=1))
        chosen = rows[np.arange(len(rows)), tokens[first:]]
        return {"nll": float((norm - chosen).sum()), "count": len(rows)}

    def logits(self, tokens: list[int], path: str) -> dict[str, Any]:
        np.save(path, self._engine.logits(tokens))
        return {"path": path}


def _greedy(tokens: int) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)


if __name__ == "__main__":
    serve(Trimtab())
