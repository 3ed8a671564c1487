"""What requests would take at the machine's ceilings: a `RequestModel` before anything was run.

A step reads the weights and the context once and does its operations; whichever takes longer is its time.
Real engines stay below that, so a prior is a lower bound until measured points scale or replace it (`fit` of
`request_fit`). The model's shape comes as plain sizes; no file is read here.

References: roofline model, CACM 52(4), 2009.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.machine.probe import BUFFER_BYTES, Limits
from trimtab.machine.requests.model import BatchFit, PromptCost, RequestModel
from trimtab.machine.roofline import Ceilings

PROMPTS = (1, 4, 16, 64, 256, 1024, 4096)
USUAL_CONTEXT = 256


@dataclass(frozen=True, slots=True)
class WorkShape:
    """What one token costs at least.

    Parameters
    ----------
    weight_bytes : read by one step, whatever its rows
    body_ops : operations of a token in the layers' matrices
    head_ops : of an output token in the vocabulary projection
    attention_ops : of a token for each position it looks at, in float
    kv_bytes : of a position in the cache
    dtype : how the matrices are multiplied, as `Ceilings.peak` names it
    row_block : tokens of a prompt that a matrix takes together; a begun block costs what a whole one does
    """

    weight_bytes: int
    body_ops: int
    head_ops: int
    attention_ops: int
    kv_bytes: int
    dtype: str = "int8"
    row_block: int = 1

    @classmethod
    def of(
        cls, *, layers: int, hidden: int, heads: int, kv_heads: int, head_dim: int, mlp: int, vocab: int,
        weight_bytes: int, kv_number_bytes: float = 2.0, dtype: str = "int8", row_block: int = 1,
    ) -> WorkShape:  # fmt: skip
        """The shape of a decoder with gated layers."""
        a_layer = hidden * head_dim * (2 * heads + 2 * kv_heads) + 3 * hidden * mlp
        return cls(
            weight_bytes, 2 * layers * a_layer, 2 * vocab * hidden, 4 * layers * heads * head_dim,
            int(2 * layers * kv_heads * head_dim * kv_number_bytes), dtype, row_block,
        )  # fmt: skip


def ceilings_of(limits: Limits) -> Ceilings:
    """Ceilings out of a quick probe, where there is no profile yet."""
    peaks = {("int8", "register"): limits.int8_ops_per_s, ("float32", "register"): limits.float_ops_per_s}
    peaks["bf16", "register"] = limits.float_ops_per_s
    rates = {"read": [(float(BUFFER_BYTES), limits.read_bytes_per_s)]}
    return Ceilings(limits.threads, peaks, rates, [], 0.0)


def prior(
    shape: WorkShape, ceilings: Ceilings, *, batches: Sequence[int] = (1,), model: str = "", engine: str = ""
) -> RequestModel:
    """The least times that this machine allows.

    Raises
    ------
    NotMeasured : a ceiling that is needed was not measured
    """
    fits = {batch: _fit(shape, ceilings, batch) for batch in batches}
    return RequestModel(model, engine, {}, fits, basis="prior")


def _fit(shape: WorkShape, ceilings: Ceilings, batch: int) -> BatchFit:
    rate = ceilings.rate(float(shape.weight_bytes))
    floats = ceilings.peak("float32")

    def prefill_s(prompt: int) -> float:
        rows = batch * prompt
        ops = rows * shape.body_ops + batch * shape.head_ops
        looked = batch * prompt * (prompt + 1) / 2
        arithmetic = ops / ceilings.peak(shape.dtype, rows) + looked * shape.attention_ops / floats
        return max(arithmetic, (shape.weight_bytes + rows * shape.kv_bytes) / rate)

    # The larger of two lines is no line: that one is taken which is larger at a usual context.
    ops = batch * (shape.body_ops + shape.head_ops) / ceilings.peak(shape.dtype, batch)
    lines = [(shape.weight_bytes / rate, shape.kv_bytes / rate), (ops, shape.attention_ops / floats)]
    beta, gamma = max(lines, key=lambda line: line[0] + line[1] * batch * USUAL_CONTEXT)
    alphas = {prompt: prefill_s(prompt) for prompt in PROMPTS}
    return BatchFit(batch, PromptCost.of(alphas, {}, shape.row_block), beta, gamma)
