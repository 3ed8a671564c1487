"""The worker's side of a benchmark: requests come as JSON lines on stdin, answers leave as JSON lines.

Runs inside a peer's own environment, so it uses the standard library only. What a library prints to stdout
goes to stderr instead; the answers have stdout for themselves.

A driver is an object whose public methods are the operations; all of them take and return plain values:

    load(...)                      -> {"name", "version", "resident_bytes", ...}
    decode(prompt, tokens)         -> {"seconds" of the tokens after the first, "tokens" timed, "first_seconds", "output"}
    prefill(prompt)                -> {"seconds" to the first token, "tokens" of the prompt}
    batch(prompts, tokens)         -> {"seconds" of everything, "tokens" generated, "step_seconds" of one decode step}
    score(tokens, first)           -> {"nll": sum of -log p of tokens[first:], each given all before, "count"}
    logits(tokens, path)           -> writes (tokens, vocabulary) float32 to a .npy file
    prepare(model, path, form)     -> writes the model to path, in a form that a peer reads
"""  # noqa: E501

from __future__ import annotations

import ctypes
import itertools
import json
import os
import signal
import statistics
import sys
import traceback
from collections.abc import Callable
from typing import Any


def serve(driver: object) -> None:
    """Answer requests until stdin ends."""
    _die_with_parent()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        op = request.pop("op")
        try:
            if op.startswith("_") or not callable(getattr(driver, op, None)):
                raise NotImplementedError(f"{type(driver).__name__} has no `{op}`")
            answer = _carried_out(getattr(driver, op), request) or {}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"[:500]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _carried_out(operation: Callable[..., Any], request: dict[str, Any]) -> Any:
    """One operation, or with `each` several in a row, told as one: a short one alone is all noise."""
    if "each" not in request:
        return operation(**request)
    settings = {name: value for name, value in request.items() if name != "each"}
    answers = [operation(**one, **settings) for one in request["each"]]
    return {key: sum(answer[key] for answer in answers) for key in ("seconds", "tokens")}


def _die_with_parent() -> None:
    """A stopped process never sees that its stdin was closed, so the kernel is asked to end it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1: PR_SET_PDEATHSIG


def resident_bytes() -> int:
    """Memory of this process, by the kernel's count."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        return next((int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS:")), 0)


def decode_answer(times: list[float], start: float, output: list[int]) -> dict[str, Any]:
    """The answer of `decode`, from the moments at which each token was known."""
    return {
        "seconds": times[-1] - times[0],
        "tokens": len(times) - 1,
        "first_seconds": times[0] - start,
        "output": output,
    }


def batch_answer(start: float, end: float, tokens: int, steps: list[float]) -> dict[str, Any]:
    """The answer of `batch`; `steps` are the moments after each decode step."""
    gaps = [after - before for before, after in itertools.pairwise(steps)]
    step = statistics.median(gaps) if gaps else None
    return {"seconds": end - start, "tokens": tokens, "step_seconds": step}
