"""Outputs have the form their grammar says, whatever the model wants and however the engine runs them."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from fake_runner import EOS, VOCAB, FakeRunner, FakeTokenizer, letter
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.errors import NonInteractiveExampleWarning
from random_schemas import random_schemas

from trimtab import LLM, SamplingParams
from trimtab.engine.engine import Engine, EngineSettings
from trimtab.engine.grammar import LONGEST_TEXT, Grammar
from trimtab.engine.grammars import Grammars
from trimtab.engine.json_schema import FORMATS
from trimtab.errors import UsageError

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"}, "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "mail": {"type": "string", "format": "email"}, "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}  # fmt: skip
QUESTION = [{"role": "user", "content": "Describe somebody called Anna as JSON."}]

# Some formats need packages that may not be here, and it passes over those.
CHECKER = jsonschema.FormatChecker(())
CHECKER.checkers = {
    name: check
    for name, check in jsonschema.Draft202012Validator.FORMAT_CHECKER.checkers.items()
    if name in FORMATS
}


@pytest.fixture(scope="module")
def llm(default_model: Path) -> Iterator[LLM]:
    with LLM(default_model, context=2048) as made:
        yield made


@pytest.fixture(scope="module")
def grammars(llm: LLM) -> Grammars:
    return Grammars(llm.tokenizer, llm.config.vocab_size)


def asked(grammar: Grammar, **settings: Any) -> SamplingParams:
    return SamplingParams(**({"max_tokens": 200, "temperature": 0.0, "grammar": grammar} | settings))


# --- descriptions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Grammar("xml"), "no grammar kind 'xml'"),  # type: ignore[arg-type]
        (lambda: Grammar.regex(3), "not int"),  # type: ignore[arg-type]
        (lambda: Grammar.regex("a" * (LONGEST_TEXT + 1)), "characters; at most"),
        (lambda: Grammar.choice([]), "at least one text"),
        (lambda: Grammar.choice("yes"), "at least one text"),
        (lambda: Grammar.choice(["a", ""]), "at least one character"),
        (lambda: Grammar.choice(["x"] * 10_001), "at most 10,000"),
        (lambda: Grammar.json_schema({"a": {1, 2}}), "must be JSON"),
        (lambda: Grammar.json_schema({"maximum": float("nan")}), "must be JSON"),
        (lambda: SamplingParams(grammar="json"), "a Grammar"),  # type: ignore[arg-type]
    ],
)
def test_wrong_descriptions_say_what_is_wrong(make: Any, words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)) as caught:
        make()
    assert caught.value.param == "grammar"


def test_a_pydantic_model_is_a_schema() -> None:
    from pydantic import BaseModel

    class Point(BaseModel):
        x: int

    assert json.loads(Grammar.json_schema(Point).text)["required"] == ["x"]


# --- with the real model ------------------------------------------------------------------------------------


def test_a_schema(llm: LLM) -> None:
    for seed in range(4):
        output = llm.chat(QUESTION, asked(Grammar.json_schema(PERSON), temperature=1.0, seed=seed))
        jsonschema.validate(json.loads(output.text), PERSON, format_checker=CHECKER)


@pytest.mark.parametrize("logprobs", [None, 2])
@pytest.mark.parametrize(
    ("grammar", "form"),
    [
        (Grammar.regex(r"\d{3}-\d{4}"), r"[0-9]{3}-[0-9]{4}"),
        (Grammar.regex(r"^(a|b)/c{2,}d$"), r"(a|b)/c{2,}d"),
        (Grammar.choice(["yes", "no", 'perhaps "so"\n']), r'yes|no|perhaps "so"\n'),
        (Grammar.choice(["ünï", "ü"]), "ünï|ü"),
        (Grammar.lark('start: "<" inner{1,3} ">"\ninner: "x" | "(" inner ")"'), r"<[x()]+>"),
        (Grammar.json_object(), r"(?s)\{.*\}"),
    ],
)
def test_other_kinds(llm: LLM, grammar: Grammar, form: str, logprobs: int | None) -> None:
    output = llm.chat(QUESTION, asked(grammar, logprobs=logprobs))
    assert re.fullmatch(form, output.text)
    assert output.logprobs is None or len(output.logprobs) == len(output.token_ids)


def test_forced_text_costs_no_steps(llm: LLM) -> None:
    schema = {"const": {"a rather long constant": ["that nobody has to think about", 1, 2, 3]}}
    before = llm.stats()
    output = llm.chat(QUESTION, asked(Grammar.json_schema(schema)))
    after = llm.stats()
    assert json.loads(output.text) == schema["const"]
    assert output.finish_reason == "stop"
    assert after["forced_tokens"] - before["forced_tokens"] >= len(output.token_ids) - 2
    assert after["steps"] - before["steps"] <= 3


@pytest.mark.parametrize("logprobs", [None, 0])
def test_the_limit_is_met_with_a_whole_value(llm: LLM, logprobs: int | None) -> None:
    grammar = Grammar.json_schema(PERSON)
    home = llm.engine._grammars().compile(grammar).landing
    assert home is not None
    for most in range(len(home), len(home) + 40, 3):
        output = llm.chat(
            QUESTION, asked(grammar, max_tokens=most, logprobs=logprobs, temperature=0.7, seed=most)
        )
        assert len(output.token_ids) <= most
        jsonschema.validate(json.loads(output.text), PERSON)
        assert output.logprobs is None or len(output.logprobs) == len(output.token_ids)
    short = llm.chat(QUESTION, asked(grammar, max_tokens=len(home) - 1, logprobs=logprobs))
    assert short.finish_reason == "length"


def test_neighbours_without_a_grammar_stay_as_they_are(llm: LLM) -> None:
    prompts = ["The sea is", "Once upon a time", "In the year"]
    alone = [llm.generate(prompt, SamplingParams(max_tokens=24, temperature=0))[0].text for prompt in prompts]
    constrained = asked(Grammar.json_schema(PERSON), max_tokens=40)
    whole = llm.generate(
        ["Anna", *prompts], [constrained] + [SamplingParams(max_tokens=24, temperature=0)] * 3
    )
    assert [output.text for output in whole[1:]] == alone
    assert whole[0].text == llm.generate("Anna", constrained)[0].text


def test_several_outputs_and_seeds(llm: LLM) -> None:
    params = asked(Grammar.regex("[a-z]{5,12}"), temperature=1.0, seed=3, n=4)
    first, second = ([output.text for output in llm.generate("A word:", params)] for _ in range(2))
    assert first == second
    assert len(set(first)) > 1
    assert all(re.fullmatch("[a-z]{5,12}", text) for text in first)


def test_stop_strings_still_stop(llm: LLM) -> None:
    output = llm.chat(QUESTION, asked(Grammar.json_schema(PERSON), stop=('"age"',)))
    assert output.finish_reason == "stop"
    assert output.text.endswith(", ")


def test_minimum_and_endless_outputs_end_with_the_grammar(llm: LLM) -> None:
    for settings_ in ({"min_tokens": 50}, {"ignore_eos": True}, {"logit_bias": {2: -100.0}}):
        output = llm.chat(QUESTION, asked(Grammar.choice(["yes", "no"]), **settings_))
        assert output.text in ("yes", "no")


def test_a_prompt_repeated_in_the_output_is_drafted(llm: LLM) -> None:
    text = json.dumps({"name": "Anna Maria of the mountains", "lines": ["one two three four five"] * 6})
    before = llm.stats()
    output = llm.generate(f"{text}\n{text}\n", asked(Grammar.json_object(), max_tokens=80))[0]
    assert json.loads(output.text)
    assert llm.stats()["accepted_tokens"] > before["accepted_tokens"]
    assert (
        output.text == llm.generate(f"{text}\n{text}\n", asked(Grammar.json_object(), max_tokens=80))[0].text
    )


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {}}, "not"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        ({"type": "object", "minProperties": 2}, "minProperties"),
        ({"$ref": "https://example.com/schema"}, "example.com"),
        ({"type": "object", "required": ["a"], "properties": {"a": False}}, "nsatisfiable"),
        ({"type": "integer", "multipleOf": 999_983}, "multipleOf"),
        ({"allOf": [{"type": "integer", "multipleOf": n} for n in (7, 11, 13, 17, 19)]}, "multipleOf"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"properties": {"a": 3}}, "where a schema belongs"),
        (False, "must be an object"),
    ],
)
def test_schemas_that_cannot_be_enforced(grammars: Grammars, schema: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        grammars.compile(Grammar.json_schema(schema))
    assert caught.value.param == "grammar"
    assert "\n" not in caught.value.message


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


HOSTILE = {
    "nesting": Grammar.json_schema(nested(300)),
    "nesting text": Grammar.json_schema('{"items":' * 20_000 + "{}" + "}" * 20_000),
    "repeats of repeats": Grammar.regex("(a{1000}){1000}"),
    "three levels of repeats": Grammar.regex("((a{0,100}){0,100}){0,100}"),
    "letters of letters": Grammar.regex("(\\p{L}{1,100}){1,100}"),
    "far apart": Grammar.regex(".{1,100}a.{1,100}b.{1,100}c.{1,100}d"),
    "exponential": Grammar.regex(".*a.{25}b.{25}"),
    "pattern in JSON": Grammar.json_schema({"type": "string", "pattern": "^(.*a){30}$", "maxLength": 5000}),
    "groups": Grammar.regex("(" * 5000 + "a" + ")" * 5000),
    "long string": Grammar.json_schema({"type": "string", "minLength": 10**6}),
    "many items": Grammar.json_schema({"type": "array", "minItems": 10**9, "items": {"type": "null"}}),
    "many names": Grammar.json_schema({"type": "object", "properties": {f"p{i}": {} for i in range(9000)}}),
    "many constants": Grammar.json_schema({"enum": [f"value {i}" for i in range(15_000)]}),
    "combinations": Grammar.json_schema(
        {"allOf": [{"anyOf": [{"required": [f"p{i}"]}, {"required": [f"q{i}"]}]} for i in range(24)]}
    ),
    "itself": Grammar.json_schema({"$ref": "#"}),
    "ambiguous": Grammar.lark('start: start start | "a"'),
    "empty turns": Grammar.lark('start: a{0,100000}\na: b{0,100000}\nb: "x"'),
    "small tokens": Grammar.lark("start: " + " ".join(['"a"{0,9}'] * 500)),
    "nonsense": Grammar.lark("start: ("),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_grammars_end_quickly(llm: LLM, name: str) -> None:
    """With an output or an error; on an idle machine none takes two seconds."""
    before, began = resident(), time.process_time()
    problem = ""
    try:
        llm.engine.prepare(HOSTILE[name])
        llm.generate("a", asked(HOSTILE[name], max_tokens=30, temperature=1.0, seed=1))
    except UsageError as error:
        problem = error.message
    assert len(problem) < 400
    assert time.process_time() - began < 10
    assert resident() - before < 200 << 20
    assert llm.generate("The sea is", SamplingParams(max_tokens=2))[0].finish_reason == "length"


def resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096


# --- any schedule -------------------------------------------------------------------------------------------


class Letters(FakeTokenizer):
    """What a grammar needs of the fake tokenizer."""

    vocab_size = VOCAB
    bos_id = None
    special_ids = frozenset({EOS})

    def token_bytes(self, token: int) -> bytes:
        return b"<end>" if token == EOS else letter(token).encode()

    def encode(self, text: str, **_: Any) -> list[int]:
        return [ord(one) - ord("a") for one in text]


FORMS = ["(ab|c){2,40}e", "[abc]{3,30}", "a(bcab){1,9}e?", "[e-x]*", "(abcabcabc|x){1,8}"]


def run(requests: list[tuple[list[int], SamplingParams]], **shape: Any) -> list[list[int]]:
    drafting = shape.pop("drafting", True)
    settings_ = EngineSettings(drafting=drafting, max_running=shape.pop("max_running", 8))
    with Engine(FakeRunner(memory_tokens=3, **shape), Letters(), settings_) as engine:  # type: ignore[arg-type]
        with engine.hold():
            handles = [engine.submit(prompt, params) for prompt, params in requests]
        return [handle.result(30).token_ids for handle in handles]


request = st.tuples(
    st.lists(st.integers(0, VOCAB - 1).filter(lambda token: token != EOS), min_size=1, max_size=40),
    st.builds(
        lambda form, most, seed, hot, logprobs: SamplingParams(
            grammar=Grammar.regex(form) if form else None, max_tokens=most, seed=seed,
            temperature=1.0 if hot else 0.0, logprobs=logprobs,
        ),
        st.sampled_from([None, *FORMS]), st.integers(1, 60), st.integers(0, 9), st.booleans(),
        st.sampled_from([None, 1]),
    ),
)  # fmt: skip


@settings(max_examples=40)
@given(st.lists(request, min_size=1, max_size=6))
def test_any_schedule_gives_the_same_outputs(requests: list[tuple[list[int], SamplingParams]]) -> None:
    """Roomy and tight pools, chunked prompts, drafts or none: preemption and recomputation change nothing."""
    roomy = run(requests, drafting=False)
    assert run(requests) == roomy
    assert run(requests, num_pages=16, max_rows=9, max_wanted=8) == roomy
    for (_, params), tokens in zip(requests, roomy, strict=True):
        if params.grammar is not None:
            text = "".join(letter(token) for token in tokens if token != EOS)
            whole = re.fullmatch(params.grammar.text, text)
            assert whole or (len(tokens) == params.max_tokens and not lands(params))


def lands(params: SamplingParams) -> bool:
    """Whether the limit leaves room for the way to an end that is known from the beginning."""
    home = HOMES.compile(params.grammar).landing if params.grammar is not None else None
    return home is not None and (params.max_tokens or 0) >= len(home)


HOMES = Grammars(Letters(), VOCAB)  # type: ignore[arg-type]


# --- random schemas -----------------------------------------------------------------------------------------


def validate(text: str, schema: Any) -> None:
    jsonschema.Draft202012Validator(schema, format_checker=CHECKER).validate(json.loads(text))


@settings(max_examples=120)
@given(schema=random_schemas(), seed=st.integers(0, 2**16))
def test_any_walk_through_a_random_schema_validates(
    grammars: Grammars, llm: LLM, schema: Any, seed: int
) -> None:
    """A model that says anything a grammar allows; most of its outputs run into their limit."""
    random, limit = np.random.default_rng(seed), 100
    try:
        constraint = grammars.start(Grammar.json_schema(schema), limit)
    except UsageError:
        return
    tokens: list[int] = []

    def take(token: int) -> bool:
        if constraint.take(token, limit - len(tokens) - 1):
            tokens.append(token)
        return constraint.landed or constraint.complete or len(tokens) == limit

    ended = False
    while not ended:
        ended = constraint.landed or any(take(token) for token in constraint.forced(limit - len(tokens)))
        if not ended:
            constraint.settle(limit - len(tokens))
            bits = np.unpackbits(np.frombuffer(constraint.masks[0], np.uint8), bitorder="little")
            token = int(random.choice(np.flatnonzero(bits)))
            ended = token in llm.tokenizer.eos_ids or take(token)
    text = llm.tokenizer.decode(tokens)
    try:
        validate(text, schema)
    except ValueError:
        # Only where no way to an end was found in time may a text be cut; that is counted below.
        assert len(tokens) == limit


def test_an_output_that_goes_on_nowhere_is_ended(grammars: Grammars) -> None:
    constraint = grammars.start(Grammar.json_object(), 50)
    for _ in range(5):
        constraint.settle(40)
    with pytest.raises(UsageError, match="goes on nowhere"):
        constraint.settle(40)


def schemas_of(count: int) -> list[Any]:
    """The first `count` different random schemas of a fixed seed."""
    import warnings

    from hypothesis import HealthCheck, Phase, seed

    found: dict[str, Any] = {}

    @seed(2026)
    @settings(
        max_examples=count * 2, database=None, phases=[Phase.generate], derandomize=False,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(random_schemas(3))
    def collect(schema: Any) -> None:
        found.setdefault(json.dumps(schema), schema)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NonInteractiveExampleWarning)
        collect()
    return list(found.values())[:count]


def generate_all(llm: LLM, schemas: list[Any]) -> Counter[str]:
    """One output of the model for each schema, and how they ended."""
    counts: Counter[str] = Counter()
    prompts, params, kept = [], [], []
    for number, schema in enumerate(schemas):
        grammar = Grammar.json_schema(schema)
        try:
            llm.engine.prepare(grammar)
        except UsageError:
            counts["refused"] += 1
            continue
        messages = [{"role": "user", "content": f"Give an example of this: {json.dumps(schema)[:300]}"}]
        prompts.append(llm.encode_chat(messages))
        params.append(asked(grammar, max_tokens=256, temperature=1.0, seed=number))
        kept.append(schema)
    for schema, output in zip(kept, llm.generate(prompts, params), strict=True):
        try:
            validate(output.text, schema)
        except json.JSONDecodeError:
            assert output.finish_reason == "length", (schema, output.text)
            counts["cut"] += 1
        else:
            counts[output.finish_reason] += 1
    return counts


def test_the_model_keeps_to_random_schemas(llm: LLM) -> None:
    counts = generate_all(llm, schemas_of(30))
    assert counts["cut"] == 0
    assert counts["stop"] + counts["length"] >= 15


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_model_keeps_to_500_random_schemas(llm: LLM) -> None:
    """All that can be enforced validate; outputs that end at their limit are brought to an end, not cut."""
    counts: Counter[str] = Counter()
    schemas = schemas_of(1000)
    while counts["stop"] + counts["length"] < 500:
        counts += generate_all(llm, schemas[:50])
        schemas = schemas[50:]
    print(dict(counts))
    assert counts["cut"] <= (counts["stop"] + counts["length"]) // 100
