"""Architectures: each a short module that writes its forward pass in the operation names of the kernels.

A new architecture is one file and one line here, plus its tensor names in `models.weights` where they differ.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from trimtab.errors import UnknownName

if TYPE_CHECKING:
    from trimtab.kernels.ops import Ops, Value
    from trimtab.models.config import ModelConfig
    from trimtab.models.weights import ModelWeights

    Forward = Callable[[Ops, ModelConfig, ModelWeights], Value]

ARCHITECTURES: dict[str, str] = {
    "llama": "trimtab.models.llama:forward",
    "mistral": "trimtab.models.mistral:forward",
    "qwen2": "trimtab.models.qwen2:forward",
    "qwen3": "trimtab.models.qwen3:forward",
    "gemma2": "trimtab.models.gemma2:forward",
    "gemma3": "trimtab.models.gemma3:forward",
    "phi3": "trimtab.models.phi3:forward",
}


def load_architecture(name: str) -> Forward:
    """The forward function of an architecture, imported when first asked for."""
    if name not in ARCHITECTURES:
        near = difflib.get_close_matches(name, ARCHITECTURES, n=1)
        guess = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(ARCHITECTURES)}"
        raise UnknownName(f"no architecture `{name}`; {guess}")
    module, attribute = ARCHITECTURES[name].split(":")
    return cast("Forward", getattr(importlib.import_module(module), attribute))


def forward(ops: Ops, config: ModelConfig, weights: ModelWeights) -> Value:
    """Logits of the batch's wanted rows, by the model's own architecture."""
    return load_architecture(config.architecture)(ops, config, weights)
