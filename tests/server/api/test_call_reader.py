"""Calls are found in a text however it is cut into pieces, and nothing else is taken for one."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from trimtab.server.api.call_form import written
from trimtab.server.api.call_reader import CallReader

NAMES = ["look", "look_up", "now"]
ARGUMENTS = st.dictionaries(
    st.text(max_size=4), st.one_of(st.text(max_size=8), st.integers(), st.lists(st.text(max_size=3)))
)
calls = st.lists(st.tuples(st.sampled_from(NAMES), ARGUMENTS), max_size=3)
WORDS = st.sampled_from(
    ["", "Well, ", "a < b ", "{}", "<tool_", "<tool_call", "}\n</tool_call>", "é\n\n", "  "]
)


def read(pieces: list[str]) -> tuple[str, list[tuple[str, str]]]:
    """The text outside of calls, and each call's name and arguments."""
    reader = CallReader(NAMES)
    found = [piece for text in pieces for piece in reader.push(text)] + reader.finish()
    said, calls = "", []
    for piece in found:
        if piece.call < 0:
            said += piece.text
        elif piece.name is not None:
            assert piece.call == len(calls)
            calls.append((piece.name, ""))
        else:
            calls[piece.call] = (calls[piece.call][0], calls[piece.call][1] + piece.text)
    return said, calls


@given(WORDS, calls, st.lists(st.integers(1, 12), min_size=1))
def test_any_cut_gives_the_same_calls(
    said: str, called: list[tuple[str, dict[str, object]]], sizes: list[int]
) -> None:
    texts = [json.dumps(arguments, ensure_ascii=False) for _, arguments in called]
    whole = said + "\n".join(written(name, text) for (name, _), text in zip(called, texts, strict=True))
    pieces, at, turn = [], 0, 0
    while at < len(whole):
        size = sizes[turn % len(sizes)]
        pieces.append(whole[at : at + size])
        at, turn = at + size, turn + 1
    expected = [(name, text) for (name, _), text in zip(called, texts, strict=True)]
    assert read(pieces) == (said.rstrip() if called else said, expected)


def test_what_only_looks_like_a_call_is_text() -> None:
    for text in (
        "<tool_call> x",
        '<tool_call>\n{"name": "other", "arguments": {}}\n</tool_call>',
    ):
        assert read(list(text)) == (text, [])


def test_a_call_that_is_cut_keeps_what_there_is() -> None:
    assert read(['<tool_call>\n{"name": "now", "arguments": {"a": [1, ']) == ("", [("now", '{"a": [1, ')])


def test_a_call_that_is_cut_before_its_arguments_is_nothing() -> None:
    whole = "Well. " + written("look", "{}")
    for end in range(whole.index(">") + 1, whole.index("{}")):
        assert read(list(whole[:end])) == ("Well.", [])


def test_text_comes_at_once() -> None:
    reader = CallReader(NAMES)
    assert [piece.text for piece in reader.push("one two")] == ["one two"]
    assert reader.push(" ") == []
    assert [piece.text for piece in reader.push("three <t")] == [" three"]
    assert [piece.text for piece in reader.push("x")] == [" <tx"]
