"""The memory of requests: what it keeps, for whom, and that it stays within its bounds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from serving_fakes import SpellingRunner, make_served

from trimtab.engine.sampling import SamplingParams
from trimtab.errors import Busy
from trimtab.server.access.keys import Tenant
from trimtab.server.api.generation import submit
from trimtab.server.call import Call
from trimtab.server.console.inspector import CONTENT_BYTES, Inspector, usual_mode
from trimtab.server.served import Served

PROMPT = list(b"a prompt of some length")


@pytest.fixture
def served() -> Iterator[Served]:
    made = make_served(SpellingRunner(fail_on=7), Inspector("full"))
    yield made
    made.engine.close()


def run(served: Served, request_id: str, tenant: str = "", prompt: list[int] = PROMPT, **params: Any) -> Any:
    """One request to its end, the way a route submits it; its entry."""
    given = SamplingParams(**{"max_tokens": 20, "temperature": 0.0} | params)
    submitted = submit(Call(Tenant(tenant, "")), served, [prompt], given, request_id)
    for handle in submitted.handles:
        try:
            handle.result(20)
        except Exception:
            assert 7 in prompt
    assert served.inspector is not None
    return served.inspector.entry(request_id, None)


def test_off_remembers_nothing() -> None:
    served = make_served(inspector=Inspector("off"))
    assert run(served, "one") is None
    assert served.inspector is not None
    assert served.inspector.entries(None) == []
    served.engine.close()


def test_meta_keeps_times_and_no_token() -> None:
    served = make_served(inspector=Inspector("meta"))
    entry = run(served, "one", logprobs=5)
    served.engine.close()
    (track,) = entry.tracks
    assert entry.prompts is None
    assert (track.tokens, track.logprobs, track.top_tokens, track.matched) == (None, None, None, None)
    assert len(track.times) == track.output_tokens == 20


def test_full_keeps_tokens_with_their_times(served: Served) -> None:
    entry = run(served, "one")
    (track,) = entry.tracks
    assert [list(prompt) for prompt in entry.prompts] == [PROMPT]
    assert track.tokens is not None
    assert len(track.tokens) == len(track.times) == 20
    assert 0 <= track.started_s <= track.first_s <= track.total_s
    assert list(track.times) == sorted(track.times)
    assert track.times[0] == pytest.approx(track.first_s, rel=1e-5)
    assert track.times[-1] <= track.total_s * (1 + 1e-6)
    assert track.status == "length"


def test_a_step_with_several_tokens_gives_each_its_time(served: Served) -> None:
    # The sentence comes round again, so that drafts are right and a step yields more than one token.
    (track,) = run(served, "one", max_tokens=300).tracks
    stats = served.engine.stats()
    assert stats["accepted_tokens"] > 0
    assert len(track.times) == track.output_tokens
    assert len(set(track.times)) < len(track.times)


def test_log_probabilities_are_kept_when_asked_for(served: Served) -> None:
    (track,) = run(served, "one", logprobs=8).tracks
    assert track.logprobs is not None
    assert len(track.logprobs) == 20
    assert track.top_tokens is not None
    assert len(track.top_tokens) == 20 * 5
    assert run(served, "two").tracks[0].logprobs is None


def test_several_outputs_are_one_request(served: Served) -> None:
    entry = run(served, "one", n=3, temperature=1.0)
    assert entry.choices == 3
    assert [track.output_tokens for track in entry.tracks] == [20, 20, 20]


def test_failures_say_why(served: Served) -> None:
    entry = run(served, "one", prompt=[7])
    assert entry.tracks[0].status == "failed"
    assert "a token that breaks the runner" in entry.tracks[0].error


def test_a_cancelled_request(served: Served) -> None:
    params = SamplingParams(max_tokens=400, temperature=0.0, ignore_eos=True)
    submitted = submit(Call(), served, [PROMPT], params, "one")
    submitted.handles[0].cancel()
    submitted.handles[0].result(20)
    assert served.inspector is not None
    entry = served.inspector.entry("one", "")
    assert entry is not None
    assert entry.tracks[0].status == "cancelled"


def test_a_refused_request_is_listed_without_its_content(served: Served) -> None:
    served.engine.drain(0)
    with pytest.raises(Busy):
        run(served, "one")
    assert served.inspector is not None
    (entry,) = served.inspector.entries("")
    assert (entry.tracks[0].status, entry.tracks[0].prompt_tokens) == ("refused", len(PROMPT))
    assert not entry.prompts


def test_a_tenant_sees_its_own(served: Served) -> None:
    run(served, "one", tenant="a")
    run(served, "two", tenant="b")
    inspector = served.inspector
    assert inspector is not None
    assert [entry.request_id for entry in inspector.entries("a")] == ["one"]
    assert inspector.entry("two", "a") is None
    assert inspector.entry("two", "b") is not None
    assert [entry.request_id for entry in inspector.entries(None)] == ["two", "one"]


def test_old_requests_lose_their_content_first_and_then_are_forgotten() -> None:
    inspector = Inspector("full", entries=12, content_bytes=12_000)
    served = make_served(inspector=inspector)
    for number in range(30):
        run(served, f"r{number}", max_tokens=60)
        kept = inspector.entries(None)
        assert len(kept) <= 12
        assert inspector.held_bytes == sum(entry.nbytes for entry in kept)
        # What is left is at most the bound, beside figures and the newest, which nobody could see otherwise.
        assert inspector.held_bytes <= 12_000 + kept[0].nbytes
    served.engine.close()
    assert [entry.request_id for entry in kept] == [f"r{number}" for number in range(29, 17, -1)]
    assert not kept[0].trimmed
    assert kept[-1].trimmed
    assert kept[-1].tracks[0].tokens is None
    assert kept[-1].tracks[0].output_tokens == 60


def test_the_bound_is_small_beside_any_budget() -> None:
    assert CONTENT_BYTES <= 4 << 20


def test_scores_count_against_the_bound(served: Served) -> None:
    from trimtab.engine.output import TokenLogprob

    entry = run(served, "one")
    inspector = served.inspector
    assert inspector is not None
    before = inspector.held_bytes
    scores = [TokenLogprob(65, -0.5, tuple((token, -1.0) for token in range(5)))] * 20
    inspector.score(entry, 0, scores)
    assert inspector.held_bytes - before == 20 * 4 + 2 * 20 * 5 * 4
    assert entry.tracks[0].scored


@pytest.mark.parametrize(
    ("host", "keys", "mode"),
    [
        ("127.0.0.1", False, "full"),
        ("localhost", False, "full"),
        ("::1", False, "full"),
        ("127.0.0.1", True, "meta"),
        ("0.0.0.0", False, "meta"),
        ("::", True, "meta"),
    ],
)
def test_content_is_kept_only_where_nobody_else_can_look(host: str, keys: bool, mode: str) -> None:
    assert usual_mode(host, keys) == mode
