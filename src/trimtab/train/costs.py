"""What the operators of a training step cost on this machine, and from that the time of a step never taken.

An operator takes the longer of its arithmetic and its bytes, and the dispatch that every operator has. Both
rates depend on size: products by their narrowest side, everything else by how much it writes, because what is
larger than the caches comes from memory, and what the allocator has no room for must first be given by the
system, page by page.
"""

from __future__ import annotations

import bisect
import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.nn import functional

from trimtab.train.trace import Operator, StepTrace

# (rows, outputs, inputs) by narrowest side; the wide sides are those of layers.
_PRODUCTS = {
    16: (16, 1536, 576), 64: (64, 1536, 576), 128: (128, 1536, 576), 256: (256, 1536, 576),
    512: (512, 1536, 576), 1024: (1024, 1536, 1024),
}  # fmt: skip
_SIZES = tuple(1 << power for power in range(12, 29, 2))  # bytes an element-wise operator writes
_COLD_BYTES = 96 << 20  # more than the caches hold
_LENGTHS = (128, 512, 1024)  # of fused attention


@dataclass(frozen=True, slots=True)
class StepCosts:
    """Measured rates.

    Parameters
    ----------
    products : type -> [(narrowest side, operations a second)], ascending
    gradients : the same of products whose narrowest side is the one summed over, as those of weights'
        gradients are: they write much and into memory that nothing used lately
    attention : type -> [(length, operations a second)] of the fused kernel, half of the square counted
    traffic : [(bytes written, bytes read and written a second)] of an element-wise operator
    optimizer_bytes_per_s : of AdamW, gradients and moments read and written
    dispatch_s : of an operator on almost nothing
    factors : kind of operator -> how many times its bound it takes in a step; see `reference_steps`
    left_s : what a step takes beside its operators, for each of them
    """

    products: Mapping[str, Sequence[tuple[float, float]]]
    gradients: Mapping[str, Sequence[tuple[float, float]]]
    attention: Mapping[str, Sequence[tuple[float, float]]]
    traffic: Sequence[tuple[float, float]]
    optimizer_bytes_per_s: float
    dispatch_s: float
    factors: Mapping[str, float] = field(default_factory=dict)
    left_s: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return {
            "products": {kind: list(map(list, points)) for kind, points in self.products.items()},
            "gradients": {kind: list(map(list, points)) for kind, points in self.gradients.items()},
            "attention": {kind: list(map(list, points)) for kind, points in self.attention.items()},
            "traffic": list(map(list, self.traffic)),
            "optimizer_bytes_per_s": self.optimizer_bytes_per_s,
            "dispatch_s": self.dispatch_s, "factors": dict(self.factors), "left_s": self.left_s,
        }  # fmt: skip

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> StepCosts:
        """From `as_dict`, as a profile's section holds it."""

        def points(rows: Any) -> list[tuple[float, float]]:
            return [(float(x), float(y)) for x, y in rows]

        return cls(
            {kind: points(rows) for kind, rows in data["products"].items()},
            {kind: points(rows) for kind, rows in data["gradients"].items()},
            {kind: points(rows) for kind, rows in data["attention"].items()},
            points(data["traffic"]), float(data["optimizer_bytes_per_s"]), float(data["dispatch_s"]),
            {kind: float(each) for kind, each in data["factors"].items()}, float(data["left_s"]),
        )  # fmt: skip

    def corrected(self, factors: Mapping[str, float], left_s: float) -> StepCosts:
        """The same rates with what a reference model's steps took beyond them."""
        return replace(self, factors=dict(factors), left_s=left_s)

    def bound_seconds(self, operator: Operator) -> float:
        """The least time of one operator here."""
        moved = operator.read_bytes + operator.written_bytes
        if operator.stage == "optimizer":
            return moved / self.optimizer_bytes_per_s
        carried = moved / _between(self.traffic, max(operator.written_bytes, 1))
        computed = 0.0
        if operator.operations:
            narrow = min(operator.shape)
            table = self.gradients if narrow == operator.shape[-1] else self.products
            if "attention" in operator.name:
                table = self.attention
            rates = table.get(operator.kind) or table["float32"]
            computed = operator.operations / _between(rates, narrow)
        return max(computed, carried) + self.dispatch_s

    def seconds(self, operator: Operator) -> float:
        """What one operator is expected to take in a step."""
        return self.bound_seconds(operator) * self.factors.get(kind_of(operator.name), 1.0) + self.left_s

    def step_seconds(self, trace: StepTrace) -> float:
        """The time of a whole step, as expected."""
        return sum(map(self.seconds, trace.operators))

    def arithmetic_seconds(self, trace: StepTrace) -> float:
        """What the step would take if products at the highest rate were all there is."""
        peaks = {kind: max(rate for _, rate in points) for kind, points in self.products.items()}
        return sum(
            each.operations / peaks.get(each.kind, peaks["float32"])
            for each in trace.operators
            if each.operations
        )


_KINDS = {
    "to_copy": "copy", "clone": "copy", "repeat": "copy", "fused_adamw": "adamw", "zero": "fill",
    "zeros": "fill", "new_zeros": "fill", "zeros_like": "fill", "full": "fill", "ones": "fill",
}  # fmt: skip


def kind_of(name: str) -> str:
    """Operators that do the same work under several names: in place or not, as traced or as profiled."""
    bare = name.strip("_")
    return _KINDS.get(bare, bare)


def measure(quick: bool = False, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Measure the rates of `StepCosts`, each kind of operator alone; about half a minute."""
    budget = 0.05 if quick else 0.4
    say("matrix products")
    products: dict[str, list[tuple[float, float]]] = {}
    gradients: dict[str, list[tuple[float, float]]] = {}
    attention: dict[str, list[tuple[float, float]]] = {}
    for kind in (torch.float32, torch.bfloat16):
        name = str(kind).removeprefix("torch.")
        products[name] = [
            (side, 2.0 * math.prod(shape) / _seconds(_product(shape, kind), budget))
            for side, shape in _PRODUCTS.items()
        ]
        gradients[name] = [
            (side, 2.0 * math.prod(shape) / _seconds(_gradient(shape, kind), budget))
            for side, shape in _PRODUCTS.items()
        ]
        say(f"attention in {name}")
        attention[name] = [
            (length, 2 * 2.0 * 9 * length * length * 64 / 2 / _seconds(_attention(length, kind), budget))
            for length in _LENGTHS
        ]
    say("element-wise operators")
    traffic = []
    for size in _SIZES[: 6 if quick else None]:
        traffic.append((float(size), 2.0 * size / _seconds(_doubling(size), budget)))
    return StepCosts(
        products, gradients, attention, traffic, _adamw_rate(budget), _dispatch(budget)
    ).as_dict()


def _product(shape: tuple[int, int, int], kind: torch.dtype) -> Callable[[], Any]:
    """A product whose weights were last used long ago, as in a step: another matrix each time."""
    rows, outputs, inputs = shape
    x = torch.randn(rows, inputs).to(kind)
    each = outputs * inputs * kind.itemsize
    weights = itertools.cycle(
        [torch.randn(outputs, inputs).to(kind) for _ in range(max(2, _COLD_BYTES // each))]
    )
    return lambda: functional.linear(x, next(weights))


def _gradient(shape: tuple[int, int, int], kind: torch.dtype) -> Callable[[], Any]:
    """A weight's gradient, summed over the rows, into another place each time."""
    rows, outputs, inputs = shape
    grad, x = (torch.randn(rows, width).to(kind) for width in (outputs, inputs))
    each = outputs * inputs * kind.itemsize
    places = itertools.cycle(
        [torch.zeros(outputs, inputs, dtype=kind) for _ in range(max(2, _COLD_BYTES // each))]
    )
    return lambda: torch.mm(grad.T, x, out=next(places))


def _doubling(size: int) -> Callable[[], Any]:
    """x * 2 on arrays of `size` bytes that were last used long ago: between two uses of an activation,
    a step reads the weights of a layer or more."""
    arrays = itertools.cycle([torch.ones(size // 4) for _ in range(max(2, _COLD_BYTES // size))])
    return lambda: next(arrays) * 2.0


def _dispatch(budget_s: float) -> float:
    """An operator on almost nothing, forward or backward, called from Python."""
    count, one = 100, torch.ones(1, requires_grad=True)

    def chain() -> None:
        x = one
        for _ in range(count):
            x = x * 1.5
        x.backward()

    return _seconds(chain, budget_s) / (2 * count)


def _attention(length: int, kind: torch.dtype) -> Callable[[], Any]:
    q, k, v = (torch.randn(1, 9, length, 64).to(kind) for _ in range(3))
    return lambda: functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def _adamw_rate(budget_s: float) -> float:
    """Bytes a second of a fused AdamW step over 4 million numbers: four arrays read, three written."""
    parameter = torch.nn.Parameter(torch.ones(4 << 20))
    parameter.grad = torch.ones_like(parameter)
    optimizer = torch.optim.AdamW([parameter], fused=True)
    return 7.0 * float(parameter.nbytes) / _seconds(optimizer.step, budget_s)


def _seconds(run: Callable[[], Any], budget_s: float) -> float:
    """Median time of a call, over at least seven of them and the budget."""
    for _ in range(3):
        run()
    times: list[float] = []
    end = time.perf_counter() + budget_s
    while len(times) < 7 or time.perf_counter() < end:
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def _between(points: Sequence[tuple[float, float]], at: float) -> float:
    """The value at `at`, linear in logarithms between the points and constant beyond them."""
    index = bisect.bisect_left(points, (at, -math.inf))
    if index == 0 or index == len(points):
        return points[min(index, len(points) - 1)][1]
    (x0, y0), (x1, y1) = points[index - 1], points[index]
    share = math.log(at / x0) / math.log(x1 / x0)
    return math.exp(math.log(y0) + share * math.log(y1 / y0))
