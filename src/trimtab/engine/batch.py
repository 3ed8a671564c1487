"""One step's work, as flat arrays, and the runner that carries it out.

A batch is a list of spans; a span is a run of consecutive tokens of one sequence, together with the pages
that hold the sequence's keys and values. Prefill chunks, single decode tokens and drafted tokens under
verification are all spans: nothing below this line knows which is which. A batch does not know requests,
and a runner does not know pages beyond the numbers it is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from trimtab.models.config import ModelConfig

PAGE_TOKENS = 16
"""Positions held by one page of keys and values."""

Ints: TypeAlias = npt.NDArray[np.int32]
Floats: TypeAlias = npt.NDArray[np.float32]
Records: TypeAlias = npt.NDArray[Any]


@dataclass(slots=True)
class Batch:
    """One step: M rows (tokens) in S spans, R of the rows wanted. Every array is C-contiguous.

    Parameters
    ----------
    tokens : (M,) int32, token of each row
    positions : (M,) int32, position of each row in its sequence; consecutive inside a span
    span_start : (S + 1,) int32, span s owns rows span_start[s] to span_start[s + 1]
    page_start : (S + 1,) int32, span s owns pages page_start[s] to page_start[s + 1]
    pages : int32 page numbers; position p of span s lives in pages[page_start[s] + p // PAGE_TOKENS]
    wanted : (R,) int32, rows whose logits are sampled or scored, ascending
    sampling : (R,) records of `trimtab.engine.sampling.SAMPLING`
    adjust_start : (R + 1,) int32, wanted row r owns adjust[adjust_start[r] : adjust_start[r + 1]]
    adjust : records of `trimtab.engine.sampling.ADJUST`: penalties and biases
    mask : (K, ceil(vocabulary / 32)) uint32, one bit per allowed token (bit t % 32 of word t // 32), or None;
        a record's `mask` is k + 1 when row k is its own, and 0 when it may choose any token
    hidden : int32, rows whose final hidden states are a result; None for none

    The arrays may be views of buffers that the engine fills again for the next step: a runner reads them
    before `step` returns and keeps none of them.
    """

    tokens: Ints
    positions: Ints
    span_start: Ints
    page_start: Ints
    pages: Ints
    wanted: Ints
    sampling: Records
    adjust_start: Ints
    adjust: Records
    mask: npt.NDArray[np.uint32] | None = None
    hidden: Ints | None = None


@dataclass(slots=True)
class StepResult:
    """What came out of the wanted rows, in their order.

    Parameters
    ----------
    tokens : (R,) int32, the sampled (or scored) token
    logprobs : (R,) float32, its log probability under the unmodified distribution
    top_tokens, top_logprobs : (R, T), the most probable tokens, best first; T is the largest number that a
        row of the batch asked for, and rows that asked for fewer hold meaningless values beyond theirs
    hidden : (batch.hidden, width of the model), what the vocabulary projection would read: the residual
        stream after the final norm; it may be a buffer that the next step fills again
    """

    tokens: Ints
    logprobs: Floats
    top_tokens: Ints
    top_logprobs: Floats
    hidden: Floats | None = None


class Runner(Protocol):
    """Carries out batches: owns the weights, the pages' memory and the arithmetic, and no policy."""

    @property
    def config(self) -> ModelConfig: ...
    @property
    def num_pages(self) -> int:
        """Pages the cache holds; a batch names them 0 to num_pages - 1."""

    @property
    def max_rows(self) -> int:
        """Most rows one batch may have."""

    @property
    def max_wanted(self) -> int:
        """Most wanted rows one batch may have."""

    @property
    def memory(self) -> Mapping[str, int]:
        """Bytes by kind: weights, scratch, pages."""

    def step(self, batch: Batch) -> StepResult:
        """Run the batch, write its keys and values into the pages, sample the wanted rows."""

    def logits(self, batch: Batch) -> Floats:
        """Run the batch like `step`, but return the logits of the wanted rows, (R, vocabulary)."""

    def close(self) -> None: ...
