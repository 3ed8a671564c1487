"""Turns come and go, and the prompt always leaves room for an answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving_fakes import ByteTokenizer

from trimtab.cli.conversation import Conversation
from trimtab.errors import TooLong, UsageError


def talk(context: int, *turns: str, system: str = "") -> Conversation:
    tokenizer: Any = ByteTokenizer()
    conversation = Conversation(tokenizer, context, system)
    for i, text in enumerate(turns):
        conversation.say(text) if i % 2 == 0 else conversation.answer(text)
    return conversation


def test_the_prompt_is_the_template_of_all_turns() -> None:
    conversation = talk(512, "hello", "hi", "more", system="be brief")
    tokens, dropped = conversation.prompt(None)
    assert dropped == 0
    assert ByteTokenizer().decode(tokens, skip_special=False) == (
        "<start>system\nbe brief<end>\n<start>user\nhello<end>\n<start>assistant\nhi<end>\n"
        "<start>user\nmore<end>\n<start>assistant\n"
    )


def test_the_oldest_turns_go_first_and_in_pairs() -> None:
    conversation = talk(200, "a" * 50, "b" * 50, "c" * 50, "d" * 10, "e" * 10, system="s")
    tokens, dropped = conversation.prompt(20)
    assert dropped == 2
    assert [turn["content"][0] for turn in conversation.turns] == ["c", "d", "e"]
    assert conversation.messages()[0] == {"role": "system", "content": "s"}
    assert len(tokens) + 20 <= 200


@given(st.integers(60, 400), st.lists(st.integers(0, 120), min_size=1, max_size=9), st.integers(1, 50))
def test_a_prompt_fits_or_is_refused(context: int, lengths: list[int], room: int) -> None:
    if len(lengths) % 2 == 0:
        lengths.pop()
    conversation = talk(context, *("x" * length for length in lengths))
    try:
        tokens, dropped = conversation.prompt(room)
    except TooLong:
        assert len(conversation.turns) == 1
        return
    assert len(tokens) < context
    assert len(conversation.turns) == len(lengths) - dropped
    assert conversation.turns[0]["role"] == "user"
    assert len(tokens) + room <= context or len(conversation.turns) == 1


def test_taking_back() -> None:
    conversation = talk(500, "one", "two", "three", "four")
    assert conversation.unsay() == "three"
    assert [turn["content"] for turn in conversation.turns] == ["one", "two"]
    assert conversation.unsay() == "one"
    assert conversation.unsay() is None


def test_saving(tmp_path: Path) -> None:
    conversation = talk(500, "Grüße", "hi", system="s")
    conversation.save(tmp_path / "talk.json")
    assert json.loads((tmp_path / "talk.json").read_text()) == conversation.messages()
    conversation.save(tmp_path / "talk.txt")
    assert (tmp_path / "talk.txt").read_text() == "system:\ns\n\nuser:\nGrüße\n\nassistant:\nhi\n"
    with pytest.raises(UsageError, match="cannot write"):
        conversation.save(tmp_path / "no" / "talk.txt")
