"""One training step after another, with the techniques that were chosen.

The techniques have the short codes of the runtime dissection (arXiv 2311.03687): F fused attention,
R recomputation, L low-rank updates, QL the same over a four-bit base, `bf16` products, `offload` of the
optimizer's moments to a file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional
from torch.profiler import record_function

from trimtab.errors import UsageError
from trimtab.train.model import Shape, TrainedModel
from trimtab.train.optimizer import FileAdamW

if TYPE_CHECKING:
    from trimtab.formats.source import TensorSource
    from trimtab.models.config import ModelConfig

RANK = 64


@dataclass(frozen=True, slots=True)
class Techniques:
    """Which techniques a step uses."""

    fused: bool = False
    recompute: bool = False
    low_rank: bool = False
    four_bit: bool = False
    bf16: bool = False
    offload: bool = False

    @classmethod
    def of(cls, codes: str | Iterable[str]) -> Techniques:
        """From codes such as `F,R,L`; QL means L over a four-bit base; nothing is the naive step.

        Raises
        ------
        UsageError : a code nobody knows, or L beside QL
        """
        given = [c.strip() for c in (codes.split(",") if isinstance(codes, str) else codes) if c.strip()]
        for code in given:
            if code not in CODES:
                raise UsageError(f"no technique `{code}`", f"known: {', '.join(CODES)}", "techniques")
        if {"L", "QL"} <= set(given):
            raise UsageError("L and QL together: QL is L over a four-bit base", param="techniques")
        names = {name for code in given for name in CODES[code]}
        return cls(**{each.name: each.name in names for each in fields(cls)})

    @property
    def shape(self) -> Shape:
        frozen = torch.bfloat16 if self.bf16 else torch.float32
        return Shape(rank=RANK if self.low_rank else 0, four_bit=self.four_bit, frozen=frozen)

    def __str__(self) -> str:
        short = [
            code for code, names in CODES.items()
            if all(getattr(self, name) for name in names) and not (code == "L" and self.four_bit)
        ]  # fmt: skip
        return "+".join(short) or "naive"


CODES: dict[str, tuple[str, ...]] = {
    "F": ("fused",),
    "R": ("recompute",),
    "L": ("low_rank",),
    "QL": ("low_rank", "four_bit"),
    "bf16": ("bf16",),
    "offload": ("offload",),
}


class Trainer:
    """A model, its optimizer, and steps.

    Parameters
    ----------
    source : the checkpoint, or None for random weights (pre-training)
    folder : where an offloaded optimizer keeps its file
    """

    def __init__(
        self, config: ModelConfig, source: TensorSource | None, techniques: Techniques, *,
        folder: Path, lr: float = 1e-4,
    ) -> None:  # fmt: skip
        self.config, self.techniques = config, techniques
        dtype = torch.bfloat16 if techniques.bf16 else torch.float32
        how = {
            "dtype": dtype, "attention": "fused" if techniques.fused else "eager",
            "recompute": techniques.recompute,
        }  # fmt: skip
        shape = techniques.shape
        self.model = (
            TrainedModel.random(config, shape, **how) if source is None
            else TrainedModel.open(source, config, shape, **how)
        )  # fmt: skip
        learning = self.model.learning()
        self.optimizer: FileAdamW | torch.optim.AdamW
        if techniques.offload:
            self.optimizer = FileAdamW(learning, folder / "moments.bin", lr=lr)
        else:
            self.optimizer = torch.optim.AdamW(learning, lr=lr, fused=True)

    def step(self, tokens: Tensor) -> float:
        """One step over tokens (batch, length) int64; the mean loss of the next token before it."""
        with record_function("stage.forward"):
            logits = self.model(tokens).view(*tokens.shape, -1)
            with record_function("loss"):
                loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
                del logits
        with record_function("stage.backward"):
            loss.backward()
        with record_function("stage.optimizer"):
            self.optimizer.step()
            self.optimizer.zero_grad()
        return float(loss.detach())

    def held(self) -> dict[str, int]:
        """Bytes between two steps: weights, and moments that are resident."""
        moments = 0
        if isinstance(self.optimizer, torch.optim.AdamW):
            moments = sum(value.nbytes for state in self.optimizer.state.values() for value in state.values())
        return {
            "weights": self.model.weight_bytes(), "base": self.model.base_bytes(), "optimizer": moments
        }  # fmt: skip
