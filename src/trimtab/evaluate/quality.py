"""Quality beside speed: perplexity of the bundled text, and the divergence from the first candidate.

Both need what not every engine gives: log-probabilities of a prompt, and logits. Where they cannot be had the
answer says why instead of a figure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import trimtab
from trimtab.evaluate.targets import Target

WINDOW = 512


def bundled_text() -> str:
    """The text that comes with trimtab, about 30 kB of plain English."""
    return (Path(str(trimtab.__file__)).parent / "data" / "text.txt").read_text(encoding="utf-8")


def perplexity(target: Target, text: str) -> float | str:
    """exp of the mean negative log-probability of the text's tokens, or why there is none."""
    scores = target.score(text)
    if isinstance(scores, str):
        return scores
    if not len(scores):
        return "the text is too short"
    return math.exp(-float(np.mean(scores, dtype=np.float64)))


def divergence(reference: Target, target: Target, text: str, windows: int = 2) -> float | str:
    """Mean KL(reference || target) over the later halves of the text's first windows, in nats.

    References: the reference is a model's own unquantized form, or simply the first candidate.
    """
    if target is reference:
        return 0.0
    tokens, own = reference.encode(text), target.encode(text)
    if tokens is None or own is None:
        return "an engine behind HTTP gives no logits"
    if tokens != own:
        return "another tokenizer than the first"
    found: list[float] = []
    for at in range(0, min(windows * WINDOW, len(tokens) - WINDOW + 1), WINDOW):
        piece = tokens[at : at + WINDOW]
        wanted, given = _log_softmax(reference, piece), _log_softmax(target, piece)
        if wanted is None or given is None:
            return "no logits"
        if wanted.shape != given.shape:
            return "another vocabulary than the first"
        found += (np.exp(wanted) * (wanted - given)).sum(axis=1).tolist()
    return float(np.mean(found)) if found else "the text is too short"


def _log_softmax(target: Target, tokens: Sequence[int]) -> npt.NDArray[np.float64] | None:
    logits: Any = target.logits(tokens)
    if logits is None:
        return None
    rows: npt.NDArray[np.float64] = np.asarray(logits[len(tokens) // 2 :], np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
    return rows
