"""How long a prompt takes to be read, by parts: every layer's products as predicted, all else as measured.

Products are most of it, and a predictor knows them. Attention, norms, packing and rotation are timed here
and now on one layer of each kind of the same model with weights made up, operation by operation, since they
depend on sizes only. So a model can be planned for that was never downloaded, or is too large to run here.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from trimtab import _native
from trimtab.engine import blocking
from trimtab.engine.batch import PAGE_TOKENS, Batch
from trimtab.engine.runner import NativeRunner, default_threads
from trimtab.engine.sampling import ADJUST, SAMPLING
from trimtab.formats.source import TensorSource
from trimtab.kernels.chooser import KernelChooser
from trimtab.kernels.native import NativeOps
from trimtab.machine.gemm.blocking import Blocking
from trimtab.machine.gemm.collect import Task
from trimtab.machine.gemm.model import GemmModel
from trimtab.machine.gemm.shapes import Shape
from trimtab.machine.spans import FIRST_OPERATION, RUN
from trimtab.models import forward
from trimtab.models.config import ModelConfig
from trimtab.models.made import MadeSource
from trimtab.models.packing import SizingMaker
from trimtab.models.weights import ModelWeights, load_weights

STEP_ROWS = 512
"""Rows of a step, as the engine has them where memory does not bind."""
ROUNDS = 5
_SMALL_VOCABULARY = 512
_PRODUCTS = ("multiply", "gated", "head")


@dataclass(frozen=True, slots=True)
class Layer:
    """A product that a model contains, `count` times."""

    format: str
    rows: int
    inputs: int
    gated: bool
    count: int


@dataclass(frozen=True, slots=True)
class PrefillTime:
    """Seconds from a prompt to its first token, the engine's own work beside the step left out.

    Parameters
    ----------
    layers_s, head_s : predicted products; the head is one row of the vocabulary's projection
    other_s : everything else in the layers, measured by operation on one layer of each kind
    low_s, high_s : where all products lay at an end of their bands together
    bound_s : the least time that the products alone can take here
    measured_around : every product lies within what the predictor has measured
    """

    tokens: int
    layers_s: float
    head_s: float
    other_s: float
    low_s: float
    high_s: float
    bound_s: float
    parts: Mapping[str, float]
    measured_around: bool

    @property
    def seconds(self) -> float:
        return self.layers_s + self.head_s + self.other_s


class Planner:
    """Predicts prefill times of one model.

    Parameters
    ----------
    source : names, shapes and types of the tensors; their bytes are not read
    format, kv_type, threads : as the engine would be given them
    chooser : blockings of the layers; default: as this machine's profile found best
    """

    def __init__(
        self, predictor: GemmModel, source: TensorSource, config: ModelConfig, *, format: str = "auto",
        kv_type: str = "bf16", threads: int | None = None, step_rows: int = STEP_ROWS,
        chooser: KernelChooser | None = None,
    ) -> None:  # fmt: skip
        self.predictor, self.config, self.kv_type = predictor, config, kv_type
        self.format, self.step_rows = format, step_rows
        self.threads = threads or default_threads()
        kernels = _native.choose_kernels("").name
        self.chooser = blocking.chooser(kernels, self.threads) if chooser is None else chooser
        ops = NativeOps(config.context)
        weights: ModelWeights = load_weights(source, config, SizingMaker(source, format))
        forward(ops, config, weights)
        self.layers = _layers(ops)
        self.head = weights.head
        self._dtypes = _dtypes(source)
        self._biased = weights.layers[0].qkv_bias is not None

    def predict(self, tokens: int) -> PrefillTime:
        """The time of a prompt of so many tokens.

        Raises
        ------
        NotMeasured : the predictor knows nothing of a format of this model, or of this number of threads
        """
        steps = [len(part) for part in _parts(tokens, self.step_rows)]
        tasks = [(self._task(layer, rows), layer.count) for rows in steps for layer in self.layers]
        found = self.predictor.predict_all([task for task, _ in tasks])
        counts = [count for _, count in tasks]
        head = self._head()
        sums = {
            name: sum(count * float(getattr(each, name)) for each, count in zip(found, counts, strict=True))
            for name in ("seconds", "low_s", "high_s", "roof_s")
        }
        parts = self.other_parts(tokens)
        other = sum(parts.values())
        return PrefillTime(
            tokens, sums["seconds"], head.seconds, other, sums["low_s"] + head.low_s + other,
            sums["high_s"] + head.high_s + other, sums["roof_s"] + head.roof_s, parts,
            all(each.measured_around for each in (*found, head)),
        )  # fmt: skip

    def other_parts(self, tokens: int) -> dict[str, float]:
        """Measured seconds by kind of operation of everything that is no product, over all layers."""
        total: defaultdict[str, float] = defaultdict(float)
        once: defaultdict[str, float] = defaultdict(float)
        config = self.config
        for kind, count in Counter(zip(config.windows, config.rope_of_layer, strict=True)).items():
            window, rope = kind
            small = replace(
                config, layers=1, vocab_size=_SMALL_VOCABULARY, windows=(window,), rope_of_layer=(rope,),
                tied=True,
            )  # fmt: skip
            source = MadeSource(small, dtypes=self._dtypes, biased=self._biased)
            with closing(open_for(source, small, tokens, self)) as runner:
                for name, seconds in operation_seconds(runner, tokens, self.step_rows).items():
                    if name in ("embed", "angles"):
                        once[name] = max(once[name], seconds)
                    elif name not in _PRODUCTS:
                        total[name] += count * seconds
        return {**once, **total}

    def _task(self, layer: Layer, rows: int) -> Task:
        format = self.predictor.nearest_format(layer.format, self.threads)
        return Task(
            format, self.threads, Shape(rows, layer.rows, layer.inputs, layer.gated),
            picked(self.chooser, layer, rows),
        )  # fmt: skip

    def _head(self) -> Any:
        # A greedy step reads the 4-bit sketch of an 8-bit projection, and little of the projection.
        sketched = _native.sketch_bytes(self.head.format, self.head.rows, self.head.inputs) > 0
        shape = Shape(1, self.head.rows, self.head.inputs)
        format = self.predictor.nearest_format("q4" if sketched else self.head.format, self.threads)
        return self.predictor.predict(format, shape, self.threads)


def open_for(source: TensorSource, config: ModelConfig, tokens: int, planner: Planner) -> NativeRunner:
    """A runner with room for one prompt, set up as the planner's."""
    return NativeRunner.open(
        source, config, num_pages=-(-tokens // PAGE_TOKENS) + 1, max_rows=min(tokens, planner.step_rows),
        max_wanted=1, context=max(tokens, 16), threads=planner.threads, kv_type=planner.kv_type,
        format=planner.format, chooser=planner.chooser,
    )  # fmt: skip


def prompt_steps(tokens: Sequence[int], rows: int) -> Iterator[Batch]:
    """The steps of one prompt; the last row of the last one is wanted, greedily."""
    pages = np.arange(-(-len(tokens) // PAGE_TOKENS), dtype=np.int32)
    for part in _parts(len(tokens), rows):
        wanted = np.array([len(part) - 1] if part.stop == len(tokens) else [], np.int32)
        sampling = np.zeros(len(wanted), SAMPLING)
        sampling["top_p"] = sampling["repetition"] = 1.0
        sampling["score"] = sampling["top_logprobs"] = -1
        yield Batch(
            tokens=np.array(tokens[part.start : part.stop], np.int32),
            positions=np.arange(part.start, part.stop, dtype=np.int32),
            span_start=np.array([0, len(part)], np.int32), page_start=np.array([0, len(pages)], np.int32),
            pages=pages, wanted=wanted, sampling=sampling,
            adjust_start=np.zeros(len(wanted) + 1, np.int32), adjust=np.zeros(0, ADJUST),
        )  # fmt: skip


def operation_seconds(runner: NativeRunner, tokens: int, rows: int, rounds: int = ROUNDS) -> dict[str, float]:
    """Seconds of each kind of operation in reading a prompt: the median of rounds, by the recorder."""
    prompt = (np.arange(tokens) * 7919 % runner.config.vocab_size).tolist()
    found: list[defaultdict[str, float]] = []
    for number in range(rounds + 1):
        runner.recorder.start()
        for batch in prompt_steps(prompt, rows):
            runner.step(batch)
        runner.recorder.stop()
        if number:  # the first round touches what is new
            found.append(_by_kind(runner))
        else:
            runner.recorder.take()
    return {name: statistics.median([each[name] for each in found]) for name in found[0]}


def prompt_seconds(runner: NativeRunner, tokens: int, rows: int, rounds: int = ROUNDS) -> list[float]:
    """Seconds of reading a prompt, each round; the recorder is off."""
    import time

    prompt = (np.arange(tokens) * 7919 % runner.config.vocab_size).tolist()
    found = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        for batch in prompt_steps(prompt, rows):
            runner.step(batch)
        found.append(time.perf_counter() - start)
    return found[1:]


def picked(chooser: KernelChooser, layer: Any, rows: int) -> Blocking:
    """The blocking that a layer runs with when a step has so many rows."""
    found = chooser.pick(layer)
    if not found:
        return Blocking()
    place = next((i for i, most in enumerate(_native.ROW_CLASSES) if rows <= most), len(found) - 1)
    way = found[place]
    return Blocking(way.rows, way.tiles, way.strip_bytes, way.grain)


def _by_kind(runner: NativeRunner) -> defaultdict[str, float]:
    """Seconds of each kind of operation on the thread that started the steps."""
    from trimtab.machine.spans import EVENT

    found: defaultdict[str, float] = defaultdict(float)
    for *_, content in runner.recorder.take():
        events = np.frombuffer(content, EVENT)
        if not (events["id"] == RUN).any():
            continue
        for event in events[events["id"] >= FIRST_OPERATION]:
            kind = runner.operations[event["id"] - FIRST_OPERATION]["kind"]
            found[kind] += float(event["end"] - event["begin"]) * 1e-9
    return found


def _layers(ops: NativeOps) -> list[Layer]:
    found: Counter[tuple[str, int, int, bool]] = Counter()
    for node in ops.nodes:
        if node.kind in ("multiply", "gated"):
            matrix = node.arguments["matrix"]
            found[matrix.format, matrix.rows, matrix.inputs, node.kind == "gated"] += 1
    return [Layer(*key, count) for key, count in found.items()]


def _dtypes(source: TensorSource) -> dict[str, str]:
    """Type of each kind of matrix, by the first layer; what is stored as one counts for all its parts."""
    from trimtab.models.weights import GGUF_NAMES, HF_NAMES

    names = GGUF_NAMES if source.kind == "gguf" else HF_NAMES
    fused = {"q": "qkv", "k": "qkv", "v": "qkv", "gate": "gate_up", "up": "gate_up"}
    present = source.names()
    found = {}
    for role in ("embed", "head", "q", "k", "v", "out", "gate", "up", "down"):
        for name in filter(None, (names[role], names[fused.get(role, role)])):
            ends = name if name.endswith(".weight") else f"{name}.weight"
            match = next((each for each in present if each.endswith(ends)), None)
            if match is not None:
                found[role] = source.info(match).dtype
                break
    return found


def _parts(tokens: int, rows: int) -> list[range]:
    return [range(start, min(start + rows, tokens)) for start in range(0, tokens, rows)]
