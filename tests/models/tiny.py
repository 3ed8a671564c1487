"""Tiny random checkpoints of every architecture, what Transformers says they answer, and a way to run them.

The sizes are awkward on purpose: widths that are no power of two, odd vocabularies, uneven head groups.
Used by the tests of the torch backend and of the native runner alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from torch import nn

from trimtab.engine.batch import PAGE_TOKENS, Batch
from trimtab.engine.sampling import ADJUST, SAMPLING

Floats = npt.NDArray[np.float32]

VOCAB = 259
CONTEXT = 96

SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "mistral": ("MistralConfig", {"sliding_window": 24, "num_key_value_heads": 3}),
    "qwen2": ("Qwen2Config", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", {"num_key_value_heads": 1, "head_dim": 64, "tie_word_embeddings": True}),
    "gemma2": (
        "Gemma2Config",
        {
            "tie_word_embeddings": True,
            "num_hidden_layers": 3,
            "sliding_window": 20,
            "query_pre_attn_scalar": 48,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma3": (
        "Gemma3TextConfig",
        {
            "tie_word_embeddings": True,
            "num_hidden_layers": 7,
            "sliding_window": 20,
            "query_pre_attn_scalar": 48,
            "num_key_value_heads": 1,
        },
    ),
    "phi3": ("Phi3Config", {"num_attention_heads": 3, "num_key_value_heads": 1, "sliding_window": 40}),
}

_SHORT = [1.0 + 0.02 * i for i in range(16)]
_LONG = [1.5 + 0.25 * i for i in range(16)]


def _rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10_000.0, **more}}


def _longrope(original: int, pairs: int = 16, **more: Any) -> dict[str, Any]:
    factors = {"short_factor": _SHORT[:pairs], "long_factor": _LONG[:pairs]}
    made = _rope("longrope", original_max_position_embeddings=original, **factors, **more)
    return {"original_max_position_embeddings": original} | made


# A name for each thing worth proving -> architecture and what differs from its plain form.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in CLASSES} | {
    "llama-tied": ("llama", {"tie_word_embeddings": True, "num_key_value_heads": 6, "head_dim": 16}),
    "llama-biased": ("llama", {"attention_bias": True, "num_key_value_heads": 3}),
    "llama-linear": ("llama", _rope("linear", factor=2.5)),
    "llama-dynamic": ("llama", {"max_position_embeddings": 32} | _rope("dynamic", factor=2.0)),
    "llama-yarn": ("llama", _rope("yarn", factor=4.0, original_max_position_embeddings=24)),
    "llama-llama3": (
        "llama",
        _rope(
            "llama3",
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=24,
        ),
    ),
    "llama-longrope": ("llama", _longrope(32, factor=3.0)),
    "mistral-unwindowed": ("mistral", {"sliding_window": None}),
    "qwen2-windowed": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1, "num_hidden_layers": 3},
    ),
    "gemma3-scaled": (
        "gemma3",
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 1_000_000.0, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            }
        },
    ),
    "phi3-long": ("phi3", _longrope(32)),
    "phi3-short": ("phi3", _longrope(80)),
    "phi3-partial": ("phi3", _rope("default", partial_rotary_factor=0.75)),
}


def make_tiny(architecture: str, folder: Path, dtype: str = "float32", **overrides: Any) -> Path:
    """Save a random checkpoint of an architecture in Hugging Face layout.

    Parameters
    ----------
    architecture : a key of `CLASSES`
    dtype : `float32`, `bfloat16` or `float16`
    overrides : fields of the Transformers configuration

    Returns
    -------
    the folder, which now holds config.json and model.safetensors
    """
    class_name, own = CLASSES[architecture]
    config = getattr(transformers, class_name)(**{**SIZES, **own, **overrides})
    with torch.random.fork_rng():
        torch.manual_seed(sum(map(ord, architecture)))
        model = transformers.AutoModelForCausalLM.from_config(config)
        for _name, weight in model.named_parameters():
            randomise(weight)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    return folder


def make_variant(name: str, folder: Path, dtype: str = "float32") -> Path:
    """`make_tiny` of one of `VARIANTS`."""
    architecture, overrides = VARIANTS[name]
    return make_tiny(architecture, folder, dtype, **overrides)


@torch.no_grad()
def randomise(weight: nn.Parameter) -> None:
    """Matrices keep a signal's size; norms and biases move away from their neutral start."""
    if weight.ndim == 1:
        weight.add_(torch.randn_like(weight), alpha=0.2)
    else:
        weight.normal_(std=1.5 / weight.shape[1] ** 0.5)


@torch.no_grad()
def reference_logits(folder: Path, tokens: Sequence[int], dtype: str = "float32") -> Floats:
    """(tokens, vocab) logits by Transformers with eager attention, computed in `dtype`."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), attn_implementation="eager"
    )
    logits = model.eval()(torch.tensor([list(tokens)]), use_cache=False).logits[0].float()
    return np.asarray(logits.numpy(), np.float32)


def some_tokens(count: int, seed: int = 0) -> list[int]:
    """Random token ids below the tiny vocabulary."""
    return [int(token) for token in np.random.default_rng(seed).integers(0, VOCAB, count)]


def batch_of(spans: Sequence[tuple[Sequence[int], int, Sequence[int]]], sampling: Any = None) -> Batch:
    """A batch of (tokens, first position, pages) spans, with every row wanted and scored greedily."""
    tokens = [token for span, _, _ in spans for token in span]
    positions = [first + i for span, first, _ in spans for i in range(len(span))]
    if sampling is None:
        sampling = np.zeros(len(tokens), SAMPLING)
        sampling["top_p"] = sampling["repetition"] = 1.0
        sampling["score"] = -1
    return Batch(
        tokens=np.array(tokens, np.int32),
        positions=np.array(positions, np.int32),
        span_start=np.cumsum([0, *(len(span) for span, _, _ in spans)], dtype=np.int32),
        page_start=np.cumsum([0, *(len(pages) for _, _, pages in spans)], dtype=np.int32),
        pages=np.array([page for _, _, pages in spans for page in pages], np.int32),
        wanted=np.arange(len(tokens), dtype=np.int32),
        sampling=sampling,
        adjust_start=np.zeros(len(tokens) + 1, np.int32),
        adjust=np.zeros(0, ADJUST),
    )


def pages_for(sequences: Sequence[Sequence[int]]) -> list[list[int]]:
    """Scattered pages that hold the sequences; page 0 and a few others stay free."""
    counts = [-(-len(sequence) // PAGE_TOKENS) for sequence in sequences]
    shuffled = iter(1 + np.random.default_rng(5).permutation(sum(counts) + 3))
    return [[int(next(shuffled)) for _ in range(count)] for count in counts]


def num_pages_for(sequences: Sequence[Sequence[int]]) -> int:
    """A pool large enough for `pages_for`."""
    return sum(-(-len(sequence) // PAGE_TOKENS) for sequence in sequences) + 4


def run_in_chunks(
    logits: Callable[[Batch], Floats], sequences: Sequence[Sequence[int]], chunks: Sequence[Sequence[int]]
) -> list[Floats]:
    """Feed sequences side by side and collect the logits of every position.

    Parameters
    ----------
    logits : runs one batch, for instance a runner's method
    chunks : per sequence, how many tokens it brings to each step (0 to skip one); sums to its length

    Returns
    -------
    per sequence (tokens, vocab)
    """
    pages, done = pages_for(sequences), [0] * len(sequences)
    collected: list[list[Floats]] = [[] for _ in sequences]
    for step in range(max(map(len, chunks))):
        here = [s for s in range(len(sequences)) if step < len(chunks[s]) and chunks[s][step]]
        spans = [(sequences[s][done[s] : done[s] + chunks[s][step]], done[s], pages[s]) for s in here]
        answer, row = logits(batch_of(spans)), 0
        for s, (tokens, _, _) in zip(here, spans, strict=True):
            collected[s].append(answer[row : row + len(tokens)])
            row, done[s] = row + len(tokens), done[s] + len(tokens)
    assert done == [len(sequence) for sequence in sequences], "the chunks do not cover the sequences"
    return [np.concatenate(parts) for parts in collected]
