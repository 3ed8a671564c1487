"""Text ends before the first stop string, however tokens cut it, and what is shown is never taken back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trimtab.engine.output import StopText
from trimtab.engine.stats import Histogram, Rate


class Pieces:
    """A stream whose token i is the i-th piece; the last one only comes with the flush."""

    def __init__(self, pieces: list[str], last: str = "") -> None:
        self.pieces, self.last = pieces, last

    def push(self, token_id: int, /) -> str:
        return self.pieces[token_id]

    def flush(self) -> str:
        return self.last


TEXTS = st.text("ab", max_size=4)


@given(st.lists(TEXTS, max_size=12), TEXTS, st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_text_is_cut_at_the_first_stop_string(pieces: list[str], last: str, stops: list[str]) -> None:
    stop_text = StopText(Pieces(pieces, last), tuple(stops))
    matched = None
    for token in range(len(pieces)):
        matched = stop_text.push(token)
        # What is held back is never longer than a stop string, less its last letter.
        shown = len("".join(stop_text.parts))
        if matched is not None:
            break
        longest = max((len(stop) for stop in stops), default=1)
        assert shown > sum(map(len, pieces[: token + 1])) - longest
    else:
        matched = stop_text.flush()
    whole = "".join(pieces) + last
    # A later piece may complete an earlier, longer stop string, but the engine had to stop at the first.
    ends = [whole.find(stop) + len(stop) for stop in stops if stop in whole]
    assert (matched is not None) == bool(ends)
    shown_text = "".join(stop_text.parts)
    if matched is None:
        assert shown_text == whole
    else:
        assert whole.startswith(shown_text + matched)
        assert not any(stop in shown_text for stop in stops)


def test_half_a_stop_string_is_shown_once_it_cannot_become_one() -> None:
    stop_text = StopText(Pieces(["x#", "#", "y", "#"]), ("###",))
    assert [stop_text.push(token) for token in range(3)] == [None] * 3
    assert "".join(stop_text.parts) == "x##y"
    stop_text.push(3)
    assert "".join(stop_text.parts) == "x##y"
    assert stop_text.flush() is None
    assert "".join(stop_text.parts) == "x##y#"


def test_the_earliest_and_then_the_longest_stop_string_counts() -> None:
    assert StopText(Pieces(["abc"]), ("bc", "ab", "abc")).push(0) == "abc"


def test_histograms_are_cumulative() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.add(value)
    expected = {"count": 4, "sum": 12.0, "buckets": [(1.0, 2), (2.0, 3), (float("inf"), 4)]}
    assert histogram.snapshot() == expected


def test_the_rate_forgets_what_is_long_past() -> None:
    rate = Rate()
    assert rate.per_second(0.0, 0) == 0.0
    for second in range(30):
        rate.mark(float(second), second * 7)
    assert rate.per_second(30.0, 210) == 7.0
    assert rate.per_second(1000.0, 210) == 0.0
