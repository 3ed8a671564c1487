"""The native runner: one model as one program, a step in one call.

It owns weights, pages and scratch memory, and no policy: which sequences run is the scheduler's business. It
serves without importing torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trimtab import _native
from trimtab.engine import blocking
from trimtab.engine.batch import Batch, StepResult
from trimtab.errors import Unsupported, UsageError
from trimtab.formats.source import TensorSource
from trimtab.kernels.chooser import KernelChooser
from trimtab.kernels.native import NativeOps, compile_program, place
from trimtab.models import forward
from trimtab.models.config import ModelConfig
from trimtab.models.packing import NativeMaker, SizingMaker
from trimtab.models.weights import load_weights, module_names

KV_TYPES = ("bf16", "int8", "f32")


@dataclass(frozen=True, slots=True)
class RunnerSizes:
    """Bytes a runner will take, before anything is read: per page, and for the given numbers of rows.

    `sketch` comes on top of `weights`, and can be left out.
    """

    weights: int
    scratch: int
    page: int
    sketch: int = 0


def default_threads() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class NativeRunner:
    """Runs batches on the CPU; implements `trimtab.engine.batch.Runner`.

    Use `open`. The object is not thread-safe: one engine owns it.
    """

    def __init__(
        self, config: ModelConfig, program: Any, keep: tuple[Any, ...], *, max_rows: int, max_wanted: int,
        weight_bytes: int, step_bytes: int, kernels: str, recorder: Any = None,
        operations: Sequence[Mapping[str, Any]] = (),
    ) -> None:  # fmt: skip
        self.config = config
        self.program = program
        self.max_rows = max_rows
        self.max_wanted = max_wanted
        self.kernels = kernels
        self.step_bytes = step_bytes
        """Of the weights, what a greedy step of one row reads."""
        self.recorder = recorder
        """Of what a step does, operation by operation; off until somebody starts it."""
        self.operations = operations
        self._keep = keep  # pool and weights live as long as the program that points at them
        self._weight_bytes = weight_bytes
        self._tokens = np.zeros(max_wanted, np.int32)
        self._logprobs = np.zeros(max_wanted, np.float32)
        self._hidden = np.empty((max_rows, config.hidden), np.float32)
        self._no_top = (np.zeros((0, 0), np.int32), np.zeros((0, 0), np.float32))

    @classmethod
    def open(
        cls, source: TensorSource, config: ModelConfig, *, num_pages: int, max_rows: int, max_wanted: int,
        context: int, threads: int | None = None, pin: bool = False, kv_type: str = "bf16",
        format: str = "auto", sketch: bool = True, kernels: str = "", chooser: KernelChooser | None = None,
    ) -> NativeRunner:  # fmt: skip
        """Load a checkpoint and build its program.

        Parameters
        ----------
        num_pages : pages of 16 positions to reserve (their memory is taken when first written)
        max_rows, max_wanted : most tokens, and most sampled tokens, of one step
        context : most positions of a sequence; decides rotary scaling of models that scale by it
        threads : threads of a step, this one included; default: the processors this process may use
        pin : bind thread i to the i-th of those processors
        kv_type : `bf16`, `int8` or `f32`
        format : weight format, see `NativeMaker`
        sketch : keep a 4-bit copy of an 8-bit vocabulary projection, with which greedy steps read half of it
        kernels : force a kernel set by name (tests); default: the best this processor runs
        chooser : how each layer's product is cut; default: as this machine's profile found best

        Raises
        ------
        UsageError : an impossible setting, with the choices
        BadFile, Unsupported : see `load_weights`
        """
        _check(config, kv_type)
        count = default_threads() if threads is None else threads
        try:
            pool = _native.Pool(count, _pins(count) if pin else [])
            chosen = _native.choose_kernels(kernels)
        except ValueError as error:
            raise UsageError(str(error)) from None
        maker = NativeMaker(source, pool, format)
        weights = load_weights(source, config, maker)
        ops = NativeOps(context, module_names(weights))
        forward(ops, config, weights)
        rough = None
        if sketch and _native.sketch_bytes(weights.head.format, weights.head.rows, weights.head.inputs):
            rough = _native.Sketch(pool, chosen, weights.head)
        read = maker.weight_bytes - (0 if config.tied else weights.embed.nbytes)
        if rough is not None:
            read += rough.nbytes - weights.head.nbytes
        program = compile_program(
            ops, pool, chosen, kv_type=kv_type, layers=config.layers, kv_heads=config.kv_heads,
            head_dim=config.head_dim, num_pages=num_pages, max_rows=max_rows, max_wanted=max_wanted,
            vocab=config.vocab_size, sketch=rough, chooser=chooser or blocking.chooser(chosen.name, count),
        )  # fmt: skip
        recorder = _native.Recorder()
        program.record_into(pool, recorder)
        return cls(
            config, program, (pool, weights), max_rows=max_rows, max_wanted=max_wanted,
            weight_bytes=maker.weight_bytes + (rough.nbytes if rough else 0), step_bytes=read,
            kernels=chosen.name, recorder=recorder, operations=ops.operations,
        )  # fmt: skip

    @staticmethod
    def sizes(
        source: TensorSource, config: ModelConfig, *, max_rows: int, max_wanted: int, context: int,
        kv_type: str = "bf16", format: str = "auto",
    ) -> RunnerSizes:  # fmt: skip
        """What `open` would take, without reading the weights."""
        _check(config, kv_type)
        maker = SizingMaker(source, format)
        ops = NativeOps(context)
        weights = load_weights(source, config, maker)
        forward(ops, config, weights)
        sketch = _native.sketch_bytes(weights.head.format, weights.head.rows, weights.head.inputs)
        scratch = place(ops.nodes, max_rows, max_wanted, config.vocab_size).scratch_bytes
        page = _native.page_bytes(kv_type, config.layers, config.kv_heads, config.head_dim)
        scratch += max_rows * config.hidden * 4  # hidden states on their way out
        return RunnerSizes(maker.weight_bytes, scratch, page, sketch)

    @property
    def num_pages(self) -> int:
        return int(self.program.num_pages)

    @property
    def threads(self) -> int:
        """Threads of a step."""
        return int(self._keep[0].threads)

    @property
    def memory(self) -> Mapping[str, int]:
        if self.program is None:  # somebody still watches a closed engine
            return {"weights": 0, "scratch": 0, "pages": 0}
        return {
            "weights": self._weight_bytes,
            "scratch": int(self.program.scratch_bytes) + self._hidden.nbytes,
            "pages": int(self.program.page_memory_bytes),
        }

    @property
    def resident(self) -> Mapping[str, int]:
        """Like `memory`, but only what the system has given memory for; untouched pages take none."""
        if self.program is None:
            return self.memory
        return {"weights": self._weight_bytes, **self.program.resident}

    def step(self, batch: Batch) -> StepResult:
        """Run the batch, write its keys and values into the pages, sample the wanted rows.

        Raises
        ------
        ValueError : the arrays do not hold together (a bug in the caller; nothing was written)
        """
        wanted = len(batch.wanted)
        top = int(batch.sampling["top_logprobs"].max(initial=0)) if wanted else 0
        if top > 0:
            tops = (np.zeros((wanted, top), np.int32), np.zeros((wanted, top), np.float32))
        else:
            tops = self._no_top
        hidden = None if batch.hidden is None else self._hidden[: len(batch.hidden)]
        self.program.step(
            batch.tokens, batch.positions, batch.span_start, batch.page_start, batch.pages, batch.wanted,
            batch.sampling.view(np.uint8), batch.adjust_start, batch.adjust.view(np.uint8), batch.mask,
            self._tokens, self._logprobs, *tops, *(() if hidden is None else (batch.hidden, hidden)),
        )  # fmt: skip
        return StepResult(self._tokens[:wanted].copy(), self._logprobs[:wanted].copy(), *tops, hidden)

    def logits(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Run the batch and return the wanted rows' logits, (R, vocabulary)."""
        out = np.empty((len(batch.wanted), self.config.vocab_size), np.float32)
        self.program.logits(
            batch.tokens, batch.positions, batch.span_start, batch.page_start, batch.pages, batch.wanted, out
        )
        return out

    def page(self, number: int) -> npt.NDArray[np.uint8]:
        """A page's bytes where they lie; nobody may write it while a step uses it."""
        view: npt.NDArray[np.uint8] = self.program.page(number)
        return view

    def drop(self, pages: Iterable[int]) -> None:
        """Give the memory of pages that nobody will use again back to the system, where it takes it."""
        import ctypes
        import mmap

        madvise = getattr(ctypes.CDLL(None), "madvise", None) if sys.platform == "linux" else None
        if madvise is None:
            return
        for number in pages:
            view = self.page(number)
            start = -(-view.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
            length = (view.ctypes.data + view.nbytes - start) // mmap.PAGESIZE * mmap.PAGESIZE
            if length > 0:
                madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Give the memory back."""
        self.program = None
        self._keep = ()


def _check(config: ModelConfig, kv_type: str) -> None:
    """Refuse what the kernels cannot run before a weight is packed."""
    if kv_type not in KV_TYPES:
        raise UsageError(f"no KV type `{kv_type}`", f"choose one of {', '.join(KV_TYPES)}", "kv_type")
    if config.head_dim % 16 or config.head_dim > 256:
        raise Unsupported(
            f"attention heads of {config.head_dim} values; on the CPU it takes a multiple of 16, at most 256"
        )


def _pins(threads: int) -> list[int]:
    allowed = sorted(os.sched_getaffinity(0))
    if threads > len(allowed):
        raise ValueError(f"cannot pin {threads} threads to {len(allowed)} processors")
    return allowed[:threads]
