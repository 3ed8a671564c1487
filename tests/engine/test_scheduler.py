"""Whatever runs beside it, whatever memory there is: every request gets what it would get alone."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from fake_runner import EOS, VOCAB, FakeRunner, FakeStream, alone
from hypothesis import given
from hypothesis import strategies as st

from trimtab.engine.batch import PAGE_TOKENS
from trimtab.engine.fairness import NOBODY, Caller
from trimtab.engine.output import StopText
from trimtab.engine.pages import PagePool, pages_for
from trimtab.engine.sampling import SamplingParams
from trimtab.engine.scheduler import Scheduler
from trimtab.engine.sequence import Sequence

STEM = [7, 1, 4, 4, 9, 2, 8, 5, 0, 11, 6, 6, 1, 2, 3, 4, 5] * 4


@dataclass
class Request:
    prompt: list[int]
    params: SamplingParams
    arrives: int = 0
    cancelled: int | None = None
    seed: int = 0
    priority: int = 0
    salt: str = ""
    caller: Caller = NOBODY


@st.composite
def requests(draw: st.DrawFn) -> Request:
    stem = STEM[: draw(st.sampled_from([0, 5, 16, 33, 48, 60]))]
    tail = draw(st.lists(st.integers(0, VOCAB - 1), min_size=1 if not stem else 0, max_size=40))
    min_tokens = draw(st.sampled_from([0, 0, 0, 3]))
    greedy = draw(st.booleans())
    params = SamplingParams(
        temperature=0.0 if greedy else 1.0,
        top_p=draw(st.sampled_from([1.0, 0.8])),
        repetition_penalty=draw(st.sampled_from([1.0, 1.0, 1.3])),
        frequency_penalty=draw(st.sampled_from([0.0, 0.0, 0.7])),
        logit_bias=draw(st.sampled_from([{}, {}, {5: 4.0, EOS: 1.0}])),
        stop=draw(st.sampled_from([(), (), ("b",), ("ab", "qr")])),
        stop_token_ids=draw(st.sampled_from([(), (9, 10)])),
        max_tokens=draw(st.sampled_from([0, 1, 2, 17, 40])) if not min_tokens else 20,
        min_tokens=min_tokens,
        ignore_eos=draw(st.booleans()),
        logprobs=draw(st.sampled_from([None, None, 0, 3])),
        prompt_logprobs=draw(st.sampled_from([None, None, None, 0, 2])),
    )
    return Request(
        stem + tail,
        params,
        arrives=draw(st.integers(0, 25)),
        cancelled=draw(st.none() | st.none() | st.integers(0, 40)),
        seed=draw(st.integers(0, 2**64 - 1)),
        priority=draw(st.sampled_from([0, 0, 1, -1])),
        salt=draw(st.sampled_from(["", "", "other"])),
        caller=draw(st.sampled_from([NOBODY, NOBODY, Caller("a"), Caller("b", weight=3.0)])),
    )


def make(request: Request, serial: int) -> Sequence:
    params = request.params
    ends = frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else {EOS})
    return Sequence(
        array("i", request.prompt),
        params,
        limit=len(request.prompt) + (params.max_tokens or 0),
        ends=ends,
        stop=StopText(FakeStream(), params.stop) if params.stop else None,
        seed=request.seed,
        age=(request.priority, serial),
        salt=request.salt,
        caller=request.caller,
        shares=params.prompt_logprobs is None,
    )


def run(wanted: list[Request], runner: FakeRunner, **settings: object) -> tuple[list[Sequence], Scheduler]:
    """Drive scheduler and runner until all requests are done; the pool must be consistent at every step."""
    pool = PagePool(runner.num_pages)
    limits = {"max_rows": runner.max_rows, "max_wanted": runner.max_wanted, "max_running": 4}
    scheduler = Scheduler(pool, **{**limits, **settings})
    sequences = [make(request, serial) for serial, request in enumerate(wanted)]
    for step in range(100_000):
        for request, sequence in zip(wanted, sequences, strict=True):
            if request.arrives == step:
                scheduler.add(sequence)
            if request.cancelled is not None and max(request.arrives, request.cancelled) == step:
                if not sequence.ended:
                    scheduler.remove(sequence)
                    sequence.end("cancelled")
                assert not sequence.pages
        batch = scheduler.next()
        if batch is not None:
            for sequence in scheduler.commit(runner.step(batch)):
                assert sequence.error is None, sequence.error
        held = {page for sequence in sequences for page in sequence.pages}
        assert pool.held == len(held)
        assert all(sequence.pages == array("i") for sequence in sequences if sequence.ended)
        if batch is None and step > 40:
            break
    else:
        raise AssertionError("the requests never finished")
    assert all(sequence.ended for sequence in sequences)
    assert pool.available == runner.num_pages
    return sequences, scheduler


def check(request: Request, sequence: Sequence, memory: int) -> None:
    expected = alone(request.prompt, request.params, seed=request.seed, memory=memory)
    got = sequence.tokens[sequence.prompt_length :].tolist()
    if sequence.finish == "cancelled":
        assert got == expected.tokens[: len(got)]
        return
    assert got == expected.tokens
    assert sequence.finish == expected.finish
    if sequence.stop is not None:
        assert "".join(sequence.stop.parts) == expected.text
    if sequence.logprobs is not None:
        assert [tuple(entry) for entry in sequence.logprobs] == expected.logprobs
    if sequence.prompt_logprobs is not None:
        scored = [None if entry is None else tuple(entry) for entry in sequence.prompt_logprobs]
        assert scored == expected.prompt_logprobs


@given(
    st.lists(requests(), min_size=1, max_size=6),
    st.sampled_from([(8, 32, 8), (9, 7, 4), (14, 64, 16), (64, 128, 16)]),
    st.sampled_from([2, 3, 1000]),
    st.booleans(),
    st.booleans(),
)
def test_every_output_is_what_the_request_gets_alone(
    wanted: list[Request], limits: tuple[int, int, int], memory: int, sharing: bool, drafting: bool
) -> None:
    num_pages, max_rows, max_wanted = limits
    # The smallest pool that may accept these requests holds the longest of them and nothing else.
    longest = max(pages_for(len(r.prompt) + (r.params.max_tokens or 0)) for r in wanted)
    runner = FakeRunner(max(num_pages, longest), max_rows, max_wanted, memory_tokens=memory)
    sequences, _ = run(wanted, runner, sharing=sharing, drafting=drafting)
    for request, sequence in zip(wanted, sequences, strict=True):
        check(request, sequence, memory)


def greedy(tokens: int, **more: object) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True, **more)  # type: ignore[arg-type]


def test_many_requests_on_the_smallest_pool_all_finish() -> None:
    prompts = [[number % VOCAB, *STEM[:30]] for number in range(30)]
    wanted = [Request(prompt, greedy(60)) for prompt in prompts]
    runner = FakeRunner(num_pages=pages_for(91))
    sequences, _ = run(wanted, runner)
    for request, sequence in zip(wanted, sequences, strict=True):
        check(request, sequence, 1000)


def test_growth_beyond_the_pool_preempts_the_youngest() -> None:
    wanted = [Request([number, *STEM[:30]], greedy(90)) for number in range(4)]
    sequences, scheduler = run(wanted, FakeRunner(num_pages=18))
    assert scheduler.counters.preemptions > 0
    assert not sequences[0].preempted
    for request, sequence in zip(wanted, sequences, strict=True):
        check(request, sequence, 1000)


def test_equal_prompts_are_computed_once_even_when_they_come_together() -> None:
    wanted = [Request(STEM[:60], greedy(4)) for _ in range(4)]
    runner = FakeRunner(max_rows=256)
    sequences, scheduler = run(wanted, runner)
    assert [sequence.cached for sequence in sequences] == [0, 48, 48, 48]
    assert scheduler.counters.cached_tokens == 3 * 48
    assert scheduler.counters.prompt_tokens == 60 + 3 * 12
    lonely = FakeRunner(max_rows=256)
    run(wanted, lonely, sharing=False)
    assert runner.rows <= lonely.rows - 3 * 48


def test_a_prompt_of_whole_pages_still_computes_its_last_token() -> None:
    wanted = [Request(STEM[:48], greedy(3)), Request(STEM[:48], greedy(3), arrives=8)]
    sequences, _ = run(wanted, FakeRunner())
    assert [sequence.cached for sequence in sequences] == [0, 32]
    check(wanted[1], sequences[1], 1000)


def test_a_preempted_prompt_is_scored_once() -> None:
    wanted = [Request([1, 2, 3], greedy(147)), Request(STEM + STEM, greedy(3, prompt_logprobs=1))]
    sequences, scheduler = run(wanted, FakeRunner(num_pages=14, max_wanted=2))
    assert scheduler.counters.preemptions > 0
    check(wanted[1], sequences[1], 1000)


def test_a_finished_output_is_shared_by_the_next_turn() -> None:
    first = Request(STEM[:20], greedy(30))
    answer = alone(first.prompt, first.params).tokens
    second = Request([*first.prompt, *answer, 1, 2, 3], greedy(5), arrives=35)
    _, sequence = run([first, second], FakeRunner())[0]
    assert sequence.cached == (20 + 30 - 1) // PAGE_TOKENS * PAGE_TOKENS
    check(second, sequence, 1000)


def test_another_salt_shares_nothing() -> None:
    wanted = [Request(STEM[:60], greedy(2)), Request(STEM[:60], greedy(2), arrives=9, salt="other")]
    assert [sequence.cached for sequence in run(wanted, FakeRunner())[0]] == [0, 0]


def test_drafts_save_steps_and_change_nothing() -> None:
    wanted = [Request(STEM[:40], greedy(120))]
    with_drafts, without = FakeRunner(memory_tokens=1), FakeRunner(memory_tokens=1)
    sequences, scheduler = run(wanted, with_drafts)
    plain, _ = run(wanted, without, drafting=False)
    assert sequences[0].tokens == plain[0].tokens
    assert scheduler.counters.accepted_tokens > 40
    assert with_drafts.steps < 0.7 * without.steps


def test_drafts_of_a_random_text_change_nothing() -> None:
    params = SamplingParams(temperature=0.4, max_tokens=150, ignore_eos=True, logprobs=2)
    wanted = [Request(STEM[:40], params, seed=seed) for seed in range(3)]
    for request in wanted:
        sequences, scheduler = run([request], FakeRunner(memory_tokens=1))
        assert scheduler.counters.accepted_tokens > 20
        check(request, sequences[0], 1)


def test_useless_drafts_are_soon_given_up() -> None:
    wanted = [Request(STEM[:40], greedy(150))]
    runner = FakeRunner(memory_tokens=1000)
    _, scheduler = run(wanted, runner)
    assert scheduler.counters.drafted_tokens < 60


def test_decoding_goes_on_while_a_long_prompt_is_computed() -> None:
    wanted = [Request([1, 2, 3], greedy(30)), Request(STEM[:60], greedy(1), arrives=2)]
    runner = FakeRunner(max_rows=8)
    sequences, _ = run(wanted, runner, drafting=False)
    assert runner.steps <= 32
    assert all(sequence.finish == "length" for sequence in sequences)


def test_a_lower_priority_number_goes_first() -> None:
    wanted = [Request(STEM[:50], greedy(30)), *(Request([5, 6, 7], greedy(3), priority=p) for p in (2, 1))]
    order: list[int] = []
    pool, runner = PagePool(64), FakeRunner()
    scheduler = Scheduler(pool, max_rows=32, max_wanted=8, max_running=1)
    sequences = [make(request, serial) for serial, request in enumerate(wanted)]
    for sequence in sequences:
        scheduler.add(sequence)
    while batch := scheduler.next():
        order += [sequences.index(s) for s in scheduler.commit(runner.step(batch)) if s.ended]
    assert order == [0, 2, 1]


def test_an_error_in_one_sequence_leaves_the_others() -> None:
    class Broken(FakeStream):
        def push(self, token_id: int, /) -> str:
            raise ValueError("no such letter")

    wanted = [Request([1, 2, 3], greedy(9, stop=("zzz",))), Request([4, 5, 6], greedy(9))]
    sequences = [make(request, serial) for serial, request in enumerate(wanted)]
    sequences[0].stop = StopText(Broken(), ("zzz",))
    pool, runner = PagePool(8), FakeRunner()
    scheduler = Scheduler(pool, max_rows=32, max_wanted=8, max_running=4)
    for sequence in sequences:
        scheduler.add(sequence)
    while batch := scheduler.next():
        scheduler.commit(runner.step(batch))
    assert isinstance(sequences[0].error, ValueError)
    check(wanted[1], sequences[1], 1000)
    assert pool.held == 0
