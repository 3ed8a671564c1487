"""The operators of a training step without running it: their arithmetic, their bytes, the memory they hold.

The step is taken on tensors that have shapes and no data. What comes out is exact in shapes and counts,
whatever the machine; what it takes in time is the business of whoever knows the machine's ceilings.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from trimtab.models.config import ModelConfig
from trimtab.train.model import TrainedModel
from trimtab.train.ops import Attention, TrainOps
from trimtab.train.trainer import Techniques

STAGES = ("forward", "backward", "optimizer")
_VIEWS = {
    "view", "_unsafe_view", "t", "transpose", "permute", "expand", "slice", "select", "unsqueeze", "squeeze",
    "split", "split_with_sizes", "detach", "alias", "as_strided", "unbind", "reshape", "lift_fresh", "chunk",
    "narrow", "_reshape_alias",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator of a step.

    Parameters
    ----------
    operations : of products; a multiply-add is two; 0 where only memory counts
    read_bytes, written_bytes : what it takes in and gives out, each tensor once
    kind : type of the products, such as `float32`
    shape : (rows, outputs, inputs) of a product, else empty
    """

    stage: str
    name: str
    operations: float
    read_bytes: int
    written_bytes: int
    kind: str
    shape: tuple[int, ...] = ()


@dataclass(slots=True)
class StepTrace:
    """All operators of a step, and its memory in bytes.

    `peak_bytes` is the most that lives beside weights and optimizer state: activations, gradients,
    temporaries. `forward_bytes` of it lives at the end of the forward pass: the activations.
    """

    operators: list[Operator] = field(default_factory=list)
    weight_bytes: int = 0
    gradient_bytes: int = 0
    optimizer_bytes: int = 0
    forward_bytes: int = 0
    peak_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """Weights, optimizer state, and the peak beside them."""
        return self.weight_bytes + self.optimizer_bytes + self.peak_bytes

    def operations(self) -> float:
        return sum(each.operations for each in self.operators)


def trace_step(config: ModelConfig, techniques: Techniques, batch: int, length: int) -> StepTrace:
    """The step that `Trainer` would take over tokens (batch, length), on a model of this shape.

    Raises
    ------
    UsageError : from the model's own checks
    """
    trace = StepTrace()
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = TrainedModel.random(
            config, techniques.shape, dtype=torch.bfloat16 if techniques.bf16 else torch.float32,
            attention="fused" if techniques.fused else "eager", recompute=techniques.recompute,
        )  # fmt: skip
        learning = model.learning()
        trace.weight_bytes = model.weight_bytes()
        trace.gradient_bytes = sum(p.nbytes for p in learning)
        moments = 2 * trace.gradient_bytes
        trace.optimizer_bytes = 0 if techniques.offload else moments
        tokens = torch.zeros(batch, length, dtype=torch.int64)
        recorder = _Recorder(trace)
        recorder.ignore(p for p in (*model.parameters(), *model.buffers(), tokens))
        with recorder:
            logits = model(tokens).view(batch, length, -1)
            loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
            del logits
            trace.forward_bytes = recorder.live
            recorder.stage = "backward"
            loss.backward()
            del loss
        trace.peak_bytes = recorder.peak
    # One pass over weights, gradients and both moments, of which three are written.
    trace.operators.append(
        Operator(
            "optimizer", "adamw", 0.0, 2 * trace.gradient_bytes + moments, trace.gradient_bytes + moments, ""
        )
    )
    return trace


class _Recorder(TorchDispatchMode):
    """Notes every operator that touches data, and which storages live."""

    def __init__(self, trace: StepTrace) -> None:
        super().__init__()
        self._trace, self.stage = trace, "forward"
        self.live = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.name().removeprefix("aten::").partition(".")[0]
        inputs = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        outputs = [x for x in tree_flatten(result)[0] if isinstance(x, Tensor)]
        for tensor in outputs:
            self._hold(tensor)
        if name in _VIEWS or not outputs:
            return result
        before = {_storage(x) for x in inputs}
        fresh = [x for x in outputs if _storage(x) not in before]
        written = sum(x.nbytes for x in (fresh or outputs))
        operations, shape = _products(name, inputs, outputs)
        kind = str(inputs[0].dtype).removeprefix("torch.") if inputs else ""
        read = sum(_touched(name, x) for x in inputs)
        if name == "index_add_":  # reads and writes the rows that are added, not the table
            written = inputs[-1].nbytes
            read = 2 * written
        if name not in ("empty", "empty_like", "empty_strided"):
            self._trace.operators.append(Operator(self.stage, name, operations, read, written, kind, shape))
        return result

    def ignore(self, tensors: Iterable[Tensor]) -> None:
        """Do not count what lives before the step."""
        self._seen.update(map(_storage, tensors))

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._seen:
            return
        size = storage.nbytes()
        self._seen.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _touched(name: str, tensor: Tensor) -> int:
    """Bytes an operator reads of an input; a look-up reads rows, counted with what it writes."""
    if name in ("embedding", "embedding_dense_backward", "index", "index_select", "nll_loss_forward"):
        return 0 if tensor.dtype.is_floating_point and tensor.dim() == 2 else int(tensor.nbytes)
    return int(min(tensor.nbytes, tensor.untyped_storage().nbytes()))


def _products(name: str, inputs: list[Tensor], outputs: list[Tensor]) -> tuple[float, tuple[int, ...]]:
    """Operations of matrix products and of attention, and their (rows, outputs, inputs)."""
    match name:
        case "mm" | "addmm":
            a, b = inputs[-2:]
            shape = (a.shape[0], b.shape[1], a.shape[1])
            return 2.0 * shape[0] * shape[1] * shape[2], shape
        case "bmm" | "baddbmm":
            a, b = inputs[-2:]
            shape = (a.shape[1], b.shape[2], a.shape[2])
            return 2.0 * a.shape[0] * shape[0] * shape[1] * shape[2], shape
        case _ if "scaled_dot_product" in name and "backward" not in name:
            return _attention(inputs[0], inputs[1], products=2)
        case _ if "scaled_dot_product" in name:
            return _attention(inputs[1], inputs[2], products=5)
    return 0.0, ()


def _attention(q: Tensor, k: Tensor, products: int) -> tuple[float, tuple[int, ...]]:
    """Half of the square is masked, and a fused kernel skips it."""
    batch, heads, rows, width = q.shape
    return products * 2.0 * batch * heads * rows * k.shape[2] * width / 2, (rows, k.shape[2], width)


def attention_bytes(config: ModelConfig, attention: Attention, batch: int, length: int) -> int:
    """What one layer's attention keeps for its gradient, its queries, keys and values included."""
    trace = StepTrace()
    with FakeTensorMode(allow_non_fake_inputs=True):
        ops = TrainOps(torch.zeros(batch, length, dtype=torch.int64), {}, attention=attention)
        qkv = torch.zeros(batch * length, config.q_width + 2 * config.kv_width, requires_grad=True)
        recorder = _Recorder(trace)
        recorder.ignore([qkv, ops.positions])
        heads: dict[str, int] = {
            "heads": config.heads, "kv_heads": config.kv_heads, "head_dim": config.head_dim,
        }  # fmt: skip
        with recorder:
            q = ops.rope_store(qkv, 0, rope=config.ropes[0], **heads)
            mixed = ops.attend(q, 0, scale=config.attention_scale, **heads)
            del q
            live = recorder.live
        del mixed
    return live
