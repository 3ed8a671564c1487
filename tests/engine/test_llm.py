"""The whole of it: a real model behind the Python interface."""

from __future__ import annotations

import asyncio
import gc
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import numpy as np
import pytest

from trimtab import LLM, AsyncLLM, SamplingParams
from trimtab.errors import TooLong, UsageError

FRANCE = "The capital of France is"
GREEDY = SamplingParams(temperature=0.0, max_tokens=8)


@pytest.fixture(scope="module")
def llm(default_model: Path) -> Iterator[LLM]:
    with LLM(default_model, context=1024) as llm:
        yield llm


def test_it_knows_the_capital_of_france(llm: LLM) -> None:
    completion = llm.generate(FRANCE, GREEDY)[0]
    assert "Paris" in completion.text
    assert completion.text == llm.tokenizer.decode(completion.token_ids, continues=True)
    assert len(completion.token_ids) == 8
    assert repr(llm).startswith("LLM(")


def test_a_row_does_not_depend_on_its_neighbours(llm: LLM) -> None:
    prompts = [FRANCE, "Once upon a time", "def add(a, b):", "1, 2, 3,"] * 2
    params = [SamplingParams(temperature=0.8, seed=seed, max_tokens=6) for seed in range(8)]
    together = llm.generate(prompts, params)
    apart = [llm.generate(prompt, one)[0] for prompt, one in zip(prompts, params, strict=True)]
    assert [c.token_ids for c in together] == [c.token_ids for c in apart]


def test_prompts_as_text_and_as_tokens(llm: LLM) -> None:
    tokens = llm.encode(FRANCE)
    asked = [llm.generate(FRANCE, GREEDY), llm.generate([FRANCE], GREEDY), llm.generate([tokens], GREEDY)]
    assert {c.text for completions in asked for c in completions} == {llm.generate(tokens, GREEDY)[0].text}
    assert llm.generate([], GREEDY) == []
    with pytest.raises(UsageError, match="2 prompts, but 1"):
        llm.generate([FRANCE, FRANCE], [GREEDY])


def test_streaming_says_the_same(llm: LLM) -> None:
    messages = [{"role": "user", "content": "Name one river."}]
    streamed = "".join(delta.text for delta in llm.stream_chat(messages, GREEDY))
    assert streamed == llm.chat(messages, GREEDY).text
    assert "".join(delta.text for delta in llm.stream(FRANCE, GREEDY)) == llm.generate(FRANCE, GREEDY)[0].text


def test_leaving_a_stream_early_cancels_it(llm: LLM) -> None:
    for _ in llm.stream(FRANCE, SamplingParams(max_tokens=500, ignore_eos=True)):
        break
    gc.collect()
    assert llm.engine.call(lambda: llm.stats()["pages_held"]) == 0


def test_scores_are_the_logits_log_softmax(llm: LLM) -> None:
    tokens = np.array(llm.encode("The quick brown fox jumps over the lazy dog. " * 8))
    logits = llm.logits(tokens.tolist()).astype(np.float64)
    assert logits.shape == (len(tokens), llm.config.vocab_size)
    shifted = logits - logits.max(axis=1, keepdims=True)
    logprobs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    expected = logprobs[np.arange(len(tokens) - 1), tokens[1:]]
    # A float32 log-softmax of values up to 30 errs by a few units in the last place of 30.
    assert np.abs(llm.score(tokens.tolist()) - expected).max() < 1e-5
    whole = llm.perplexity(tokens.tolist(), window=len(tokens), warm_up=0)
    assert whole == pytest.approx(np.exp(-expected.mean()), rel=1e-5)
    assert llm.perplexity(tokens.tolist(), window=32) > 1


def test_limits_are_errors_with_numbers(llm: LLM) -> None:
    with pytest.raises(TooLong, match="1024"):
        llm.generate([[5] * 1020], SamplingParams(max_tokens=5))
    with pytest.raises(UsageError, match="too short"):
        llm.perplexity([5])
    with pytest.raises(UsageError, match="window"):
        llm.perplexity(FRANCE, window=1)


def test_coroutines(default_model: Path) -> None:
    async def main() -> tuple[str, str, str]:
        async with AsyncLLM(default_model, context=256) as llm:
            generated = (await llm.generate([FRANCE, FRANCE], GREEDY))[1].text
            streamed = "".join([delta.text async for delta in llm.stream(FRANCE, GREEDY)])
            async with aclosing(llm.stream_chat([{"role": "user", "content": "Hi"}], GREEDY)) as deltas:
                async for delta in deltas:
                    first = delta.text
                    break
            return generated, streamed, first

    generated, streamed, _ = asyncio.run(main())
    assert generated == streamed


# In processes of their own, because the promise is about a whole process.
LOAD = """
import sys
from pathlib import Path
from trimtab import LLM, SamplingParams

model, memory, requests, prompt, output = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
llm = LLM(model, memory=memory)
params = SamplingParams(temperature=0, max_tokens=output, ignore_eos=True)
prompts = [[(11 * request + 7 * place) % 49000 for place in range(prompt)] for request in range(requests)]
completions = llm.generate(prompts, params)
assert [len(one.token_ids) for one in completions] == [output] * requests
assert llm.generate(prompts[-1:], params)[0].token_ids == completions[-1].token_ids
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) * 1024, llm.plan.promised_bytes)
llm.close()
"""


@pytest.mark.parametrize(
    ("requests", "prompt", "output"),
    [(12, 180, 20), pytest.param(64, 500, 500, marks=[pytest.mark.slow, pytest.mark.timeout(3000)])],
)
def test_the_smallest_budget_holds_and_every_request_finishes(
    default_model: Path, requests: int, prompt: int, output: int
) -> None:
    def load(memory: str) -> subprocess.CompletedProcess[str]:
        numbers = [str(number) for number in (requests, prompt, output)]
        command = [sys.executable, "-c", LOAD, str(default_model), memory, *numbers]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    refused = load("50MB").stderr
    assert "DoesNotFit" in refused
    smallest = re.search(r"would do is `--memory (\w+)`", refused)
    assert smallest is not None, refused
    run = load(smallest[1])
    assert run.returncode == 0, run.stderr
    peak, promised = map(int, run.stdout.split())
    assert peak <= promised
