"""Drafts come from what was said before, and the gate keeps them only while they pay."""

from __future__ import annotations

from array import array

from hypothesis import given
from hypothesis import strategies as st

from trimtab.engine.lookup import MAX_ROWS, OPEN_AT, Lookup, draft_length


def test_what_followed_before_is_drafted() -> None:
    lookup = Lookup()
    assert list(lookup.draft(array("i", [5, 6, 7, 8, 9, 1, 5, 6]), 3)) == [7, 8, 9]
    assert list(Lookup().draft(array("i", [5, 6, 7, 8, 9, 1, 5, 6]), 2)) == [7, 8]
    assert not Lookup().draft(array("i", [1, 2, 3, 4]), 3)
    assert not Lookup().draft(array("i", [1]), 3)


def test_the_latest_occurrence_counts() -> None:
    assert list(Lookup().draft(array("i", [1, 2, 3, 1, 2, 4, 1, 2]), 1)) == [4]


def test_the_gate_closes_on_misses_and_opens_again_without_a_step() -> None:
    lookup = Lookup()
    tokens = array("i", [1, 2, 9, 1, 2])
    drafts = 0
    for step in range(20):  # 1 2 is followed by something new each time
        if lookup.draft(tokens, 3):
            drafts += 1
            lookup.verified(0)
        tokens.extend([100 + step, 1, 2])
    assert 1 <= drafts <= 4
    assert lookup.expected[0] < OPEN_AT
    for _ in range(12):  # now it repeats, and the closed gate notices by watching
        for token in (50, 51, 52, 1, 2):
            tokens.append(token)
            if lookup.draft(tokens, 3):
                return
    raise AssertionError("the gate stayed closed on a text that repeats")


@given(st.integers(0, 200))
def test_drafted_rows_stay_few(sequences: int) -> None:
    length = draft_length(sequences)
    assert 0 <= length <= 3 or sequences > MAX_ROWS
    assert max(0, length) * sequences + (sequences if length > 0 else 0) <= MAX_ROWS


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(1, 3))
def test_a_draft_is_part_of_the_text_after_an_equal_pair(text: list[int], limit: int) -> None:
    lookup, tokens = Lookup(), array("i")
    for token in text:
        tokens.append(token)
        draft = list(lookup.draft(tokens, limit))
        if draft:
            lookup.verified(len(draft) % 2)
            assert len(draft) <= limit
            joined = [*text[len(tokens) - 2 : len(tokens)], *draft]
            places = range(len(tokens) - len(joined) + 1)
            assert any(text[at : at + len(joined)] == joined for at in places)
