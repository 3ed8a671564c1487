"""Greedy output of the native engine against Transformers on the same bf16 weights, token for token.

The reference computes in float32: in bf16 arithmetic Transformers is not even close to itself. FIGURES
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
import transformers
from as_transformers import transformers_model
from greedy_prompts import PROMPTS

from trimtab import LLM, SamplingParams

TIE = 1e-2
"""Logits of the reference that are no further apart count as equal."""


@dataclass(frozen=True)
class Expected:
    """What Transformers says after a prompt: its greedy tokens, and all logits before each of them."""

    prompt: list[int]
    tokens: list[int]
    logits: npt.NDArray[np.float32]  # (tokens, vocabulary)

    def margin(self, position: int, token: int) -> float:
        """By how much the best logit at a position is above a token's."""
        row = self.logits[position]
        return float(row[self.tokens[position]] - row[token])


@torch.no_grad()
def expected(model: transformers.LlamaForCausalLM, prompt: list[int], count: int) -> Expected:
    """Greedy generation, one token at a time with Transformers' own cache."""
    new, cache, tokens, logits = prompt, None, [], []
    for _ in range(count):
        out = model(torch.tensor([new]), past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        logits.append(out.logits[0, -1].float().numpy())
        tokens.append(int(logits[-1].argmax()))
        new = tokens[-1:]
    return Expected(prompt, tokens, np.stack(logits))


def ties(llm: LLM, references: Sequence[Expected]) -> list[tuple[int, int, float]]:
    """Where the engine differs: prompt, position, margin. After each it goes on from the reference's token."""  # noqa: E501
    found: list[tuple[int, int, float]] = []
    agreed = dict.fromkeys(range(len(references)), 0)  # prompt -> tokens compared so far
    while agreed:
        outputs = llm.generate(
            [references[index].prompt + references[index].tokens[:done] for index, done in agreed.items()],
            [greedy(len(references[index].tokens) - done) for index, done in agreed.items()],
        )
        for (index, done), output in zip(tuple(agreed.items()), outputs, strict=True):
            want = references[index].tokens[done:]
            assert len(output.token_ids) == len(want)
            differs = next((i for i, token in enumerate(output.token_ids) if token != want[i]), None)
            if differs is not None:
                position = done + differs
                margin = references[index].margin(position, output.token_ids[differs])
                found.append((index, position, margin))
                agreed[index] = position + 1
            if differs is None or agreed[index] == len(references[index].tokens):
                del agreed[index]
    return found


def greedy(count: int) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=count, ignore_eos=True)


@pytest.fixture(scope="module")
def reference(default_model: Path) -> Iterator[transformers.LlamaForCausalLM]:
    """The default model, its matrices rounded to bf16, computing in float32."""
    yield transformers_model(default_model).bfloat16().float()  # noqa: PT022


@pytest.mark.parametrize("kv_type", ["f32", "bf16"])
def test_few_tokens_equal(
    default_model: Path, reference: transformers.LlamaForCausalLM, kv_type: str
) -> None:
    with LLM(default_model, format="bf16", kv_type=kv_type, context=512) as llm:
        references = [expected(reference, list(llm.encode(prompt)), 16) for prompt in PROMPTS[:3]]
        for index, position, margin in ties(llm, references):
            assert margin <= TIE, f"prompt {index} differs at token {position} by {margin}"
