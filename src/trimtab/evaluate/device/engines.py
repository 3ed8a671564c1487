"""How an engine is started as a server on a device, and what its work weighs in bytes and operations."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from trimtab.errors import UsageError
from trimtab.evaluate.device.driver import Launch
from trimtab.evaluate.device.plan import Job
from trimtab.machine.power.model import Activity

_HEAD_BITS = 8.5  # of the vocabulary projections that have a 4-bit copy, scales included
_TRIMTAB = "from trimtab.cli.main import main; main()"


def launch(job: Job, model: Path, *, threads: int, context: int) -> Launch:
    """The command that serves a job's model.

    Raises
    ------
    UsageError : the engine is not installed, or has no file for the quantisation
    """
    engine = job.engine
    if engine.url is not None:
        return Launch(engine.label, model, url=engine.url)
    if engine.name == "trimtab":
        flags = ["--port", "{port}", "--threads", str(threads), "--context", str(context)]
        # A drafted token shares its pass over the weights: bytes a token are only known without.
        flags += ["--no-drafting", "--format", job.quant, *engine.options]
        return Launch("trimtab", model, (sys.executable, "-c", _TRIMTAB, "serve", "{model}", *flags))
    if engine.name == "llama.cpp":
        from trimtab.machine import peers

        lacks = peers.missing("llama_cpp")
        if lacks:
            raise UsageError(
                f"llama.cpp lacks {', '.join(lacks)}", "make it with `trimtab bench --install llama_cpp`"
            )
        flags = ["--model", "{model}", "--port", "{port}", "--n_threads", str(threads)]
        flags += ["--n_threads_batch", str(threads), "--n_ctx", str(context), *engine.options]
        python = str(peers.python_of("llama_cpp"))
        return Launch("llama.cpp", model, (python, "-m", "llama_cpp.server", *flags))
    words = {"{threads}": str(threads), "{context}": str(context)}
    return Launch(engine.label, model, tuple(words.get(word, word) for word in engine.command))


@dataclass(frozen=True, slots=True)
class Work:
    """Bytes and operations that a model's tokens take at least.

    Parameters
    ----------
    step_bytes : of the weights, what one greedy step of one row reads
    pass_bytes : what a pass over many rows reads
    position_bytes : of one position in the KV cache
    body_operations, head_operations : a row; a multiply-add is two
    attention_operations : a row and position that it looks at
    rows : most of one pass
    """

    step_bytes: float
    pass_bytes: float
    position_bytes: float
    body_operations: float
    head_operations: float
    attention_operations: float
    rows: int = 512

    def prefill(self, tokens: int, before: int = 0) -> tuple[float, float]:
        """(bytes, operations) of `tokens` of a prompt behind `before` that are there already."""
        if tokens <= 0:
            return 0.0, 0.0
        passes = -(-tokens // self.rows)
        seen = tokens * before + tokens * (tokens + 1) / 2
        moved = passes * self.pass_bytes + (before + tokens) * self.position_bytes
        return moved, (
            tokens * self.body_operations + self.head_operations + seen * self.attention_operations
        )

    def decode(self, tokens: int, before: int) -> tuple[float, float]:
        """(bytes, operations) of `tokens` steps, the first of them with `before` positions in the cache."""
        if tokens <= 0:
            return 0.0, 0.0
        seen = tokens * before + tokens * (tokens + 1) / 2
        moved = tokens * self.step_bytes + seen * self.position_bytes
        return moved, (
            tokens * (self.body_operations + self.head_operations) + seen * self.attention_operations
        )

    def activity(self, seconds: float, core_seconds: float, work: tuple[float, float]) -> Activity:
        return Activity(seconds, core_seconds, *work)


def work_of(model: Path, format: str | None) -> Work:
    """The work of a model's tokens, from its header alone.

    Parameters
    ----------
    format : trimtab's weight format, by whose packed bytes; None takes the file's own bytes, as of an engine
        that computes from them
    """
    from trimtab.engine.runner import NativeRunner
    from trimtab.formats.source import open_source
    from trimtab.models.config import config_from

    with closing(open_source(model)) as source:
        config = config_from(source)
        step = passed = float(sum(source.info(name).nbytes for name in source.names()))
        heads, kv, size = config.heads, config.kv_heads, config.head_dim
        a_layer = config.hidden * size * (2 * heads + 2 * kv) + 3 * config.hidden * config.mlp
        head = config.vocab_size * config.hidden
        head_share = head / (config.layers * a_layer + head * (1 if config.tied else 2))
        if format is not None:
            sizes = NativeRunner.sizes(
                source, config, max_rows=512, max_wanted=64, context=1024, format=format
            )
            step = passed = float(sizes.weights)
            if sizes.sketch:  # a greedy step reads this 4-bit copy instead of the 8-bit head
                step += sizes.sketch - _HEAD_BITS / 8 * head
    if not config.tied:  # of the embedding one row is read, not the matrix
        step, passed = step * (1 - head_share), passed * (1 - head_share)
    return Work(
        step_bytes=step,
        pass_bytes=passed,
        position_bytes=2 * config.layers * kv * size * 2,
        body_operations=2 * config.layers * a_layer,
        head_operations=2 * head,
        attention_operations=4 * config.layers * heads * size,
    )
