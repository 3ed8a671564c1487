"""The engine's thread, its readers in threads and coroutines, and what happens when something goes wrong."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from fake_runner import EOS, VOCAB, FakeRunner, FakeTokenizer, alone, letter, toy_logits
from hypothesis import given
from hypothesis import strategies as st

from trimtab.engine.engine import Engine, EngineSettings
from trimtab.engine.sampling import SamplingParams
from trimtab.errors import Busy, TooLong, TrimtabError, UsageError

PROMPT = [7, 1, 4, 4, 9]


def greedy(tokens: int | None, **more: object) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True, **more)  # type: ignore[arg-type]


class SlowRunner(FakeRunner):
    """Waits in every step until the test lets it go."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.steps_allowed = threading.Semaphore(0)
        self.in_step = threading.Event()

    def step(self, batch):  # type: ignore[no-untyped-def]
        self.in_step.set()
        assert self.steps_allowed.acquire(timeout=30)
        return super().step(batch)


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(FakeRunner(), FakeTokenizer()) as engine:
        yield engine


def test_result_is_what_the_model_says(engine: Engine) -> None:
    params = greedy(20, logprobs=2)
    expected = alone(PROMPT, params)
    completion = engine.submit(PROMPT, params).result()
    assert completion.token_ids == expected.tokens
    assert completion.text == expected.text == "".join(letter(token) for token in expected.tokens)
    assert completion.finish_reason == "length"
    assert [tuple(entry) for entry in completion.logprobs or ()] == expected.logprobs
    assert completion.prompt_tokens == len(PROMPT)
    assert 0 < completion.first_token_s <= completion.total_s


def test_deltas_add_up_to_the_result(engine: Engine) -> None:
    params = SamplingParams(seed=5, max_tokens=60, stop=("ab", "q"), logprobs=0)
    expected = alone(PROMPT, params, seed=5)
    handle = engine.submit(PROMPT, params)
    deltas = list(handle)
    assert "".join(delta.text for delta in deltas) == expected.text
    assert [token for delta in deltas for token in delta.token_ids] == expected.tokens
    assert [entry.token for delta in deltas for entry in delta.logprobs or ()] == expected.tokens
    assert [delta.finish_reason for delta in deltas][-1] == expected.finish
    assert all(delta.finish_reason is None for delta in deltas[:-1])
    assert handle.result().text == expected.text


def test_coroutines_read_many_requests_at_once(engine: Engine) -> None:
    async def read(seed: int) -> str:
        handle = engine.submit(PROMPT, SamplingParams(seed=seed, max_tokens=30))
        return "".join([delta.text async for delta in handle])

    async def main() -> list[str]:
        return await asyncio.gather(*(read(seed) for seed in range(12)))

    params = SamplingParams(max_tokens=30)
    assert asyncio.run(main()) == [alone(PROMPT, params, seed=seed).text for seed in range(12)]


def test_waiting_in_a_coroutine(engine: Engine) -> None:
    async def main() -> str:
        return (await engine.submit(PROMPT, greedy(9)).wait()).text

    assert asyncio.run(main()) == alone(PROMPT, greedy(9)).text


def test_a_loop_is_woken_once_a_step() -> None:
    runner, calls = SlowRunner(), []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        original = loop.call_soon_threadsafe
        with Engine(runner, FakeTokenizer(), EngineSettings(drafting=False, stream_gap_ms=0)) as engine:
            with engine.hold():
                handles = [engine.submit([number], greedy(5)) for number in range(6)]
            loop.call_soon_threadsafe = lambda *call: (calls.append(call), original(*call))[1]  # type: ignore

            async def read(handle):  # type: ignore[no-untyped-def]
                return [delta async for delta in handle]

            readers = [asyncio.ensure_future(read(handle)) for handle in handles]
            for _ in range(5):
                await asyncio.sleep(0.01)
                runner.steps_allowed.release()
            await asyncio.gather(*readers)
            loop.call_soon_threadsafe = original  # type: ignore[method-assign]

    asyncio.run(main())
    assert runner.steps == 5
    assert len(calls) == 5


def test_pieces_of_a_stream_keep_their_distance() -> None:
    """The first and the last come at once; what comes between waits for the gap and is told together."""
    expected = alone(PROMPT, greedy(20))
    for gap_ms, most in ((0.0, 20), (60_000.0, 2)):
        runner, settings = SlowRunner(), EngineSettings(stream_gap_ms=gap_ms, drafting=False)
        with Engine(runner, FakeTokenizer(), settings) as engine:
            handle = engine.submit(PROMPT, greedy(20))
            deltas = []
            runner.steps_allowed.release()
            for delta in handle:
                deltas.append(delta)
                runner.steps_allowed.release(20)
            assert [token for delta in deltas for token in delta.token_ids] == expected.tokens
            assert len(deltas[0].token_ids) == 1
            assert len(deltas) <= most
            runner.steps_allowed.release(1000)


def test_cancellation_keeps_what_is_there_and_frees_the_pages() -> None:
    runner = SlowRunner()
    with Engine(runner, FakeTokenizer()) as engine:
        handle = engine.submit(PROMPT, greedy(100))
        for _ in range(3):
            runner.steps_allowed.release()
        first = next(handle)
        handle.cancel()
        runner.steps_allowed.release(100)
        completion = handle.result(30)
        assert completion.finish_reason == "cancelled"
        assert completion.token_ids[:1] == first.token_ids[:1]
        assert completion.token_ids == alone(PROMPT, greedy(100)).tokens[: len(completion.token_ids)]
        assert engine.stats()["pages_held"] == 0
        handle.cancel()  # too late, and harmless


def test_leaving_a_with_block_cancels() -> None:
    runner = SlowRunner()
    with Engine(runner, FakeTokenizer()) as engine:
        runner.steps_allowed.release(1000)
        with engine.submit(PROMPT, greedy(200)) as handle:
            next(handle)
        assert handle.result(30).finish_reason in ("cancelled", "length")
        assert engine.stats()["pages_held"] == 0


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 40), st.booleans()), min_size=1, max_size=12))
def test_threads_that_submit_and_cancel_leak_nothing(plans: list[tuple[int, int, bool]]) -> None:
    def use(prompt_end: int, tokens: int, leave: bool) -> None:
        params = greedy(tokens)
        handle = engine.submit([1, 2, prompt_end], params)
        if leave:
            next(handle)
            handle.cancel()
            got = handle.result(30).token_ids
            assert got == alone([1, 2, prompt_end], params).tokens[: len(got)]
        else:
            assert handle.result(30).token_ids == alone([1, 2, prompt_end], params).tokens

    failures: list[BaseException] = []

    def guarded(*plan: object) -> None:
        try:
            use(*plan)  # type: ignore[arg-type]
        except BaseException as error:
            failures.append(error)

    with Engine(FakeRunner(num_pages=9), FakeTokenizer(), EngineSettings(max_running=3)) as engine:
        threads = [threading.Thread(target=guarded, args=plan) for plan in plans]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not failures
        assert engine.drain(30)
        stats = engine.stats()
        assert (stats["pages_held"], stats["running"], stats["waiting"]) == (0, 0, 0)
        assert sum(stats["requests"].values()) == len(plans)


def test_choices_share_the_prompt_and_differ(engine: Engine) -> None:
    prompt = list(range(20)) * 3
    handles = engine.submit_choices(prompt, SamplingParams(n=3, seed=1, max_tokens=12, ignore_eos=True))
    results = [handle.result() for handle in handles]
    assert [result.index for result in results] == [0, 1, 2]
    assert len({result.text for result in results}) == 3
    assert [result.cached_tokens for result in results] == [0, 48, 48]
    one = engine.submit(prompt, SamplingParams(seed=1, max_tokens=12, ignore_eos=True)).result()
    assert one.text == results[0].text


def test_equal_seeds_repeat_and_missing_seeds_do_not(engine: Engine) -> None:
    fixed = [engine.submit(PROMPT, SamplingParams(seed=3, max_tokens=20)).result().text for _ in range(2)]
    free = [engine.submit(PROMPT, SamplingParams(max_tokens=20)).result().text for _ in range(3)]
    assert fixed[0] == fixed[1]
    assert len(set(free)) > 1


def test_scoring_a_prompt_needs_no_output(engine: Engine) -> None:
    params = SamplingParams(max_tokens=0, prompt_logprobs=1)
    completion = engine.submit(PROMPT * 4, params).result()
    assert completion.token_ids == []
    assert completion.finish_reason == "length"
    scored = [None if entry is None else tuple(entry) for entry in completion.prompt_logprobs or ()]
    assert scored == alone(PROMPT * 4, params).prompt_logprobs


def test_logits_of_every_position(engine: Engine) -> None:
    prompt = PROMPT * 5
    logits = engine.logits(prompt)
    expected = [toy_logits(np.array(prompt[: place + 1]), 1000) for place in range(len(prompt))]
    assert np.array_equal(logits, np.stack(expected))
    assert engine.stats()["pages_held"] == 0


def test_logits_in_the_middle_of_other_work() -> None:
    with Engine(FakeRunner(num_pages=8, context=128), FakeTokenizer()) as engine:
        handles = [engine.submit([number], greedy(100)) for number in range(4)]
        for _ in range(5):
            assert engine.logits(PROMPT * 20).shape == (100, VOCAB)
        for number, handle in enumerate(handles):
            assert handle.result(60).token_ids == alone([number], greedy(100)).tokens


def test_a_failing_step_fails_its_requests_and_the_engine_goes_on() -> None:
    with Engine(FakeRunner(fail_at=2), FakeTokenizer()) as engine:
        with pytest.raises(TrimtabError, match="told to fail"):
            engine.submit(PROMPT, greedy(9)).result(30)
        assert engine.submit(PROMPT, greedy(9)).result(30).text == alone(PROMPT, greedy(9)).text
        assert engine.stats()["requests"]["failed"] == 1
        assert engine.stats()["pages_held"] == 0


def test_a_failing_reader_stream_hurts_nobody_else() -> None:
    class Broken(FakeTokenizer):
        def stream(self):  # type: ignore[no-untyped-def]
            class Stream:
                def push(self, token_id: int) -> str:
                    raise ValueError("no such letter")

                def flush(self) -> str:
                    return ""

            return Stream()

    with Engine(FakeRunner(), Broken()) as engine:
        with pytest.raises(TrimtabError, match="no such letter"):
            engine.submit(PROMPT, greedy(9, stop=("zz",))).result(30)
        assert engine.submit(PROMPT, SamplingParams(max_tokens=0)).result(30).finish_reason == "length"


def test_too_long_names_the_numbers() -> None:
    with Engine(FakeRunner(num_pages=4, context=256), FakeTokenizer()) as engine:
        assert engine.context == 64
        with pytest.raises(TooLong, match=r"60 tokens of prompt and 5 of output exceed the context of 64"):
            engine.submit([1] * 60, greedy(5))
        with pytest.raises(TooLong, match="--memory"):
            engine.submit([1] * 64, greedy(None))
        with pytest.raises(TooLong, match="65"):
            engine.logits([1] * 65)
        assert len(engine.submit([1] * 60, greedy(None)).result().token_ids) == 4
        assert len(engine.submit([1] * 60, greedy(4)).result().token_ids) == 4


@pytest.mark.parametrize(
    ("prompt", "params", "words"),
    [
        ([], SamplingParams(), "no tokens"),
        ([VOCAB], SamplingParams(), f"token {VOCAB}"),
        ([-1, 5], SamplingParams(), "token -1"),
        ([2**40], SamplingParams(), "token ids"),
        (["a"], SamplingParams(), "token ids"),
        ([1], SamplingParams(n=2), "submit_choices"),
        ([1], SamplingParams(logit_bias={VOCAB: 1.0}), "vocabulary"),
    ],
)
def test_impossible_requests(engine: Engine, prompt: list, params: SamplingParams, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        engine.submit(prompt, params)


def test_a_full_queue_refuses() -> None:
    runner = SlowRunner()
    with Engine(runner, FakeTokenizer(), EngineSettings(max_running=1, max_waiting=2)) as engine:
        handles = [engine.submit([number], greedy(2)) for number in range(3)]
        with pytest.raises(Busy, match="3 requests"):
            engine.submit([9], greedy(2))
        with pytest.raises(Busy):
            engine.submit_choices([9], SamplingParams(n=2))
        runner.steps_allowed.release(1000)
        assert [handle.result(30).finish_reason for handle in handles] == ["length"] * 3
        assert engine.stats()["requests"]["refused"] == 2


def test_draining_finishes_and_refuses(engine: Engine) -> None:
    handle = engine.submit(PROMPT, greedy(30))
    assert engine.drain(30)
    assert handle.finished
    with pytest.raises(Busy, match="shutting down"):
        engine.submit(PROMPT)


def test_closing_cancels_and_closes_the_runner() -> None:
    runner = SlowRunner()
    engine = Engine(runner, FakeTokenizer())
    handle = engine.submit(PROMPT, greedy(200))
    assert runner.in_step.wait(30)
    threading.Timer(0.05, runner.steps_allowed.release, (1000,)).start()
    engine.close()
    engine.close()
    assert handle.result(30).finish_reason == "cancelled"
    assert runner.closed
    with pytest.raises(Busy):
        engine.submit(PROMPT)
    with pytest.raises(Busy):
        engine.logits(PROMPT)


def test_a_result_that_is_late() -> None:
    runner = SlowRunner()
    with Engine(runner, FakeTokenizer()) as engine:
        handle = engine.submit(PROMPT, greedy(2))
        with pytest.raises(TimeoutError):
            handle.result(0.01)
        runner.steps_allowed.release(10)
        assert handle.result(30).finish_reason == "length"


def test_figures_add_up(engine: Engine) -> None:
    completion = engine.submit(PROMPT, greedy(11)).result()
    assert engine.submit([1], SamplingParams(temperature=0, max_tokens=40, stop_token_ids=(EOS,))).result()
    stats = engine.stats()
    assert stats["ttft_s"]["count"] == 2
    assert stats["ttft_s"]["buckets"][-1] == (float("inf"), 2)
    assert stats["tpot_s"]["count"] >= 1
    assert stats["tpot_s"]["sum"] >= (completion.total_s - completion.first_token_s) / 10
    assert stats["output_tokens"] >= 12
    assert stats["prompt_tokens"] == len(PROMPT) + 1
    assert stats["memory_bytes"] == {"weights": 1, "scratch": 2, "pages": 3}
    assert stats["requests"]["length"] + stats["requests"]["stop"] == 2


def test_an_idle_engine_does_nothing() -> None:
    runner = FakeRunner()
    with Engine(runner, FakeTokenizer()) as engine:
        engine.submit(PROMPT, greedy(2)).result()
        before, cpu = runner.steps, time.thread_time()
        time.sleep(0.05)
        assert runner.steps == before
        assert time.thread_time() - cpu < 0.05
