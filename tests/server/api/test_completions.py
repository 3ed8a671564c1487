"""/v1/completions beyond a plain continuation: candidates, scores of prompts, gaps, empty prompts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest
from serving_fakes import ByteTokenizer

from trimtab.engine.output import TokenLogprob
from trimtab.server.api.infill import SPELLINGS, infill_tokens
from trimtab.server.api.logprobs import completion_logprobs, prompt_logprobs
from trimtab.server.errors import ApiError


def complete(client: openai.OpenAI, **more: Any) -> Any:
    asked: Any = {"model": "speller", "prompt": "T", "max_tokens": 6, "temperature": 1.0, "seed": 1}
    return client.completions.create(**(asked | more))


def test_best_of_answers_the_likeliest(client: openai.OpenAI) -> None:
    """The make-believe model is surer of small letters than of capitals."""
    every = [choice.text for choice in complete(client, n=6).choices]
    assert set(every) == {"he qui", "HE QUI"}
    answer = complete(client, n=2, best_of=6)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert [choice.text for choice in answer.choices] == sorted(every, key=str.isupper)[:2]
    assert answer.choices[0].logprobs is None
    assert answer.usage.completion_tokens == 36  # the candidates that were not chosen were made too
    assert answer.usage.prompt_tokens == 1


def test_best_of_keeps_prompts_apart(client: openai.OpenAI) -> None:
    answer = complete(client, prompt=["T", "Th"], n=1, best_of=5, logprobs=0, echo=True)
    assert [choice.text for choice in answer.choices] == ["The qui", "The quic"]
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert [len(choice.logprobs.tokens) for choice in answer.choices] == [7, 8]


def test_the_end_token_is_scored_too(client: openai.OpenAI) -> None:
    """Evaluation programs cut one entry off the end: the token that was generated, whatever it is."""
    prompt = [84] * 400
    answer = complete(client, prompt=prompt, max_tokens=9, echo=True, logprobs=1, temperature=0)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].logprobs.tokens[-1] == "<end>"
    assert len(answer.choices[0].logprobs.token_logprobs) == 401
    assert answer.choices[0].text == "T" * 400


def test_prompt_logprobs(client: openai.OpenAI) -> None:
    extra = {"prompt_logprobs": 2}
    choice = complete(client, prompt="Th", max_tokens=1, extra_body=extra).choices[0]
    scores = choice.prompt_logprobs
    assert scores[0] is None
    assert scores[1] == {
        "0": {"logprob": -1.0, "rank": 1, "decoded_token": "\x00"},
        "1": {"logprob": -2.0, "rank": 2, "decoded_token": "\x01"},
        "104": {"logprob": -0.5, "rank": None, "decoded_token": "h"},
    }
    messages: Any = [{"role": "user", "content": "hi"}]
    chat: Any = client.chat.completions.create(
        model="speller", messages=messages, max_tokens=1, extra_body=extra
    )
    assert len(chat.prompt_logprobs) == chat.usage.prompt_tokens


def test_more_scores_than_the_echo_asks_for(client: openai.OpenAI) -> None:
    extra = {"prompt_logprobs": 5}
    choice = complete(client, prompt="Th", max_tokens=0, echo=True, logprobs=1, extra_body=extra).choices[0]
    assert set(choice.logprobs.top_logprobs[1]) == {"\x00", "h"}
    assert len(choice.prompt_logprobs[1]) == 6
    alone = complete(client, prompt="Th", max_tokens=0, extra_body=extra).choices[0]
    assert (alone.text, alone.prompt_logprobs) == ("", choice.prompt_logprobs)


def test_two_tokens_of_one_text_keep_the_likelier_score() -> None:
    tokenizer: Any = SimpleNamespace(token_bytes=lambda token: b"A")
    entry = TokenLogprob(7, -3.0, ((5, -0.1), (7, -3.0)))
    scores = completion_logprobs([entry], tokenizer, 0, alternatives=True)
    assert scores["top_logprobs"] == [{"A": -0.1}]
    assert scores["token_logprobs"] == [-3.0]
    assert prompt_logprobs([None, entry], 1, tokenizer)[1] == {
        "5": {"logprob": -0.1, "rank": 1, "decoded_token": "A"},
        "7": {"logprob": -3.0, "rank": 2, "decoded_token": "A"},
    }


@pytest.mark.parametrize(
    ("asked", "param", "code"),
    [
        ({"n": 3, "best_of": 2}, "best_of", None),
        ({"best_of": 2, "stream": True}, "best_of", None),
        ({"best_of": 0}, "best_of", "number_below_min_value"),
        ({"best_of": "2"}, "best_of", "invalid_type"),
        ({"suffix": "end"}, "suffix", "unsupported_parameter"),
        ({"extra_body": {"prompt_logprobs": 1}, "stream": True}, "prompt_logprobs", None),
        ({"extra_body": {"prompt_logprobs": -1}}, "prompt_logprobs", "number_below_min_value"),
        ({"extra_body": {"use_beam_search": True}}, "use_beam_search", None),
    ],
)
def test_refusals(client: openai.OpenAI, asked: dict[str, Any], param: str, code: str | None) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        complete(client, **asked)
    assert caught.value.param == param
    assert code is None or caught.value.code == code


def test_best_of_as_many_as_answered_can_be_streamed(client: openai.OpenAI) -> None:
    chunks = list(complete(client, best_of=1, stream=True, temperature=0))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "he qui"


def test_values_that_ask_for_what_is_done_anyway(client: openai.OpenAI) -> None:
    extra: dict[str, Any] = {"skip_special_tokens": True, "spaces_between_special_tokens": True}
    extra |= {"include_stop_str_in_output": False, "length_penalty": 1.0, "use_beam_search": False}
    assert complete(client, temperature=0, suffix="", extra_body=extra).choices[0].text == "he qui"


def test_an_empty_prompt_begins_with_the_end_token_for_want_of_another(server: Any) -> None:
    for prompt in ({"prompt": ""}, {"prompt": None}, {}):
        body = {**prompt, "echo": True, "max_tokens": 0}
        answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=30).json()
        assert answer["choices"][0]["text"] == "<end>"
        assert answer["usage"]["prompt_tokens"] == 1


class GapTokenizer(ByteTokenizer):
    """Knows the control tokens of one spelling as ids from 300 on."""

    bos_id: Any = None

    def __init__(self, spelling: tuple[str, ...]) -> None:
        self.spelling = spelling

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        if parse_special and text in self.spelling:
            return [300 + self.spelling.index(text)]
        return super().encode(text, add_special=add_special, parse_special=parse_special)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_gap_is_filled_between_control_tokens(spelling: tuple[str, ...]) -> None:
    tokenizer: Any = GapTokenizer(spelling)
    assert infill_tokens(tokenizer, [97, 98], "z") == [300, 97, 98, 301, 122, 302]
    assert infill_tokens(tokenizer, [97], spelling[2])[3:-1] == list(spelling[2].encode())
    tokenizer.bos_id = 9
    assert infill_tokens(tokenizer, [9, 97], "z") == [9, 300, 97, 301, 122, 302]
    plain: Any = ByteTokenizer()
    with pytest.raises(ApiError, match="filling in the middle"):
        infill_tokens(plain, [97], "z")
