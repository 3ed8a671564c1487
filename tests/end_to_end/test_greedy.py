"""Greedy output of the native engine against Transformers on the same bf16 weights, token for token.

The reference computes in float32, because in bf16 Transformers is far from itself: of the 20 x 64 tokens here
it then picks 21 differently, with margins up to 0.39 between the two logits (standard deviation of its logits
0.14). The engine's bf16 weights with an f32 cache pick none differently (0.008), with a bf16 cache 3, with
margins of 0.007, 0.014 and 0.029 (0.034). Measured on one processor with AVX512-BF16, PyTorch 2.13.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch
import transformers
from as_transformers import transformers_model
from greedy_prompts import PROMPTS

from trimtab import LLM, SamplingParams
from trimtab.formats.source import open_source
from trimtab.models.tokenizer import load_tokenizer

WIDEST = {"f32": 1e-2, "bf16": 0.1}
"""By KV type: logits of the reference that are no further apart count as equal.

Rounding keys and values to bf16, which Transformers in float32 does not, moves each logit by 0.034 (standard
deviation over the prompts here); the difference of two moves by 0.048, and twice that may change the order.
"""


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


class Difference(NamedTuple):
    """The engine chose a token whose logit is, in the reference, `margin` below the best one's."""

    prompt: int
    position: int
    margin: float


def differences(llm: LLM, references: Sequence[Expected]) -> list[Difference]:
    """Where the engine differs. After each difference it goes on from the reference's token."""
    found: list[Difference] = []
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
                found.append(Difference(index, position, margin))
                agreed[index] = position + 1
            if differs is None or agreed[index] == len(references[index].tokens):
                del agreed[index]
    return found


def greedy(count: int) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=count, ignore_eos=True)


@pytest.fixture(scope="module")
def reference(default_model: Path) -> transformers.LlamaForCausalLM:
    """The default model, its matrices rounded to bf16, computing in float32."""
    return transformers_model(default_model).bfloat16().float()


@pytest.fixture(scope="module")
def references(reference: transformers.LlamaForCausalLM, default_model: Path) -> list[Expected]:
    """64 tokens after each of the prompts."""
    with closing(open_source(default_model)) as source:
        encode = load_tokenizer(source).encode
    return [expected(reference, encode(prompt), 64) for prompt in PROMPTS]


@pytest.fixture(scope="module")
def own_ties(reference: transformers.LlamaForCausalLM, references: list[Expected]) -> list[Difference]:
    """Where Transformers' bf16 arithmetic differs from its own float32 arithmetic, after the same tokens."""
    model, found = copy.deepcopy(reference).bfloat16(), []
    for index, one in enumerate(references):
        text = torch.tensor([one.prompt + one.tokens[:-1]])
        with torch.no_grad():
            best = model(text).logits[0, len(one.prompt) - 1 :].argmax(-1).tolist()
        found += [
            Difference(index, position, one.margin(position, token))
            for position, token in enumerate(best)
            if token != one.tokens[position]
        ]
    return found


@pytest.mark.parametrize("kv_type", WIDEST)
def test_few_tokens_equal(
    default_model: Path, reference: transformers.LlamaForCausalLM, kv_type: str
) -> None:
    with LLM(default_model, format="bf16", kv_type=kv_type, context=512) as llm:
        few = [expected(reference, list(llm.encode(prompt)), 16) for prompt in PROMPTS[:3]]
        found = differences(llm, few)
    assert all(one.margin <= WIDEST[kv_type] for one in found), found


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("kv_type", WIDEST)
def test_64_tokens_equal(
    default_model: Path, references: list[Expected], own_ties: list[Difference], kv_type: str
) -> None:
    with LLM(default_model, format="bf16", kv_type=kv_type, context=512) as llm:
        found = differences(llm, references)
    print(f"KV {kv_type}: {found}; Transformers in bf16: {own_ties}")
    assert all(one.margin <= WIDEST[kv_type] for one in found), found
    assert len(found) < len(own_ties)
    assert max((one.margin for one in found), default=0.0) < max(one.margin for one in own_ties)
