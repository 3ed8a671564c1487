"""trimtab: give it a model and a budget; it fits the model to the machine, runs it, and proves what it cost."""  # noqa: E501

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["LLM", "AsyncLLM", "Grammar", "SamplingParams", "__version__"]

if TYPE_CHECKING:
    from trimtab.engine.grammar import Grammar
    from trimtab.engine.llm import LLM, AsyncLLM
    from trimtab.engine.sampling import SamplingParams

_HOME = {
    "LLM": "trimtab.engine.llm",
    "AsyncLLM": "trimtab.engine.llm",
    "Grammar": "trimtab.engine.grammar",
    "SamplingParams": "trimtab.engine.sampling",
}


def __getattr__(name: str) -> Any:
    # Lazy, so that `import trimtab` stays instant and `trimtab --help` loads no engine.
    if name not in _HOME:
        raise AttributeError(f"module 'trimtab' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)
