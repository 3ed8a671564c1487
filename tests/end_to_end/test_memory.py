"""The promise of `--memory`, at the smallest value that is accepted: everything finishes, nothing exceeds it.

The kernel's peak of the server process (VmHWM) is what is held against the promise. Address space that may be
written is capped too, once the server is up, at what it then has and the reserve of the plan: pages and
weights are mapped by then, so nothing but requests may still grow.
"""

from __future__ import annotations

import random
import re
import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from real_server import RealServer, trimtab

from trimtab.engine.budget import RESERVE_BYTES
from trimtab.formats.source import open_source
from trimtab.models.tokenizer import Tokenizer, load_tokenizer

KINDS = ("bf16", "int8")
PEOPLE = ("the baker", "an old sailor", "Maria", "my neighbour", "the committee", "a tired engineer", "Tom")
DEEDS = ("found", "painted", "sold", "forgot", "repaired", "described", "lost", "borrowed", "measured")
THINGS = ("a red bicycle", "the clock tower", "seven letters", "the recipe", "a map of the coast", "a radio")
WHEN = ("on Monday", "after the storm", "twice", "without a word", "before breakfast", "in 1987", "again")


@dataclass(frozen=True)
class Promise:
    """A server that runs at the smallest budget it accepts."""

    bytes: int
    server: RealServer


@pytest.fixture(scope="module", params=KINDS)
def promise(request: pytest.FixtureRequest, default_model: Path) -> Iterator[Promise]:
    megabytes = smallest(str(default_model), "--kv-type", request.param)
    # They wait as long as it takes; how many may wait is bounded as ever.
    options = ("--kv-type", request.param, "--memory", f"{megabytes}MB", "--max-wait-seconds", "0")
    with RealServer(str(default_model), *options) as server:
        grown = server.status("VmData") + RESERVE_BYTES
        resource.prlimit(server.process.pid, resource.RLIMIT_DATA, (grown, grown))
        yield Promise(megabytes * 10**6, server)
        code, said = server.end()
        assert (code, said.count("\n")) == (0, 1), said  # the announcement, and nothing else


@pytest.fixture(scope="module")
def tokenizer(default_model: Path) -> Tokenizer:
    with closing(open_source(default_model)) as source:
        return load_tokenizer(source)


def smallest(*arguments: str) -> int:
    """Megabytes of the smallest budget, as the refusal of a smaller one names it."""
    refused = trimtab("serve", *arguments, "--memory", "1MB", "--port", "0")
    assert refused.returncode == 4
    named = re.search(r"smallest budget that would do is `--memory (\d+)MB`", refused.stderr)
    assert named, refused.stderr
    return int(named[1])


def story(tokenizer: Tokenizer, seed: int, tokens: int) -> list[int]:
    """A prompt of exactly so many tokens, unlike any of another seed from its first words on."""
    choose = random.Random(seed).choice
    text = f"Story {seed}."
    while len(ids := tokenizer.encode(text)) < tokens:
        text += "".join(
            f" {choose(PEOPLE).capitalize()} {choose(DEEDS)} {choose(THINGS)} {choose(WHEN)}."
            for _ in range(tokens // 8)
        )
    return ids[:tokens]


def storm(
    promise: Promise, tokenizer: Tokenizer, *, requests: int, prompt: int, output: int, alone: int
) -> None:
    """Requests at once; some of them were answered alone before, and must be answered the same."""
    prompts = [story(tokenizer, seed, prompt) for seed in range(requests)]

    def ask(ids: list[int]) -> str:
        body = {"prompt": ids, "temperature": 0, "max_tokens": output, "ignore_eos": True}
        answer = promise.server.client.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
        whole = answer.json()
        usage = whole["usage"]
        assert (usage["prompt_tokens"], usage["completion_tokens"]) == (prompt, output)
        assert whole["choices"][0]["finish_reason"] == "length"
        return str(whole["choices"][0]["text"])

    sample = range(0, requests, requests // alone)
    expected = {index: ask(prompts[index]) for index in sample}
    with ThreadPoolExecutor(requests) as clients:
        texts = list(clients.map(ask, prompts))
    assert {index: texts[index] for index in sample} == expected
    assert len(set(texts)) > requests // 2  # they were different questions
    assert promise.server.status("VmHWM") <= promise.bytes


def test_a_budget_below_the_smallest_is_refused(promise: Promise) -> None:
    """The named one is accepted, as `promise` shows; a tenth less is not."""
    arguments = promise.server.process.args
    assert isinstance(arguments, list)
    model = arguments[arguments.index("serve") + 1]
    kind = arguments[arguments.index("--kv-type") + 1]
    less = promise.bytes * 9 // 10
    refused = trimtab("serve", model, "--kv-type", kind, "--memory", str(less), "--port", "0")
    assert refused.returncode == 4, refused.stderr
    assert "is too small for this model" in refused.stderr


def test_some_requests_at_once_stay_inside(promise: Promise, tokenizer: Tokenizer) -> None:
    storm(promise, tokenizer, requests=8, prompt=150, output=16, alone=2)


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_64_requests_of_1000_tokens_stay_inside(promise: Promise, tokenizer: Tokenizer) -> None:
    storm(promise, tokenizer, requests=64, prompt=900, output=100, alone=6)
