"""Schemas are brought into the compiler's form, and mean what they meant."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_schemas import NAMES, random_schemas

from trimtab.engine.json_schema import prepared
from trimtab.errors import UsageError


def made(schema: Any) -> dict[str, Any]:
    done: dict[str, Any] = json.loads(prepared(json.dumps(schema)))
    done.pop("x-guidance")
    return done


TEXT, WHOLE = {"type": "string"}, {"type": "integer"}
CAT = {"type": "object", "properties": {"kind": {"const": "cat"}}, "required": ["kind"]}
DOG = {"type": "object", "properties": {"kind": {"enum": ["dog", "hound"]}}, "required": ["kind"]}


@pytest.mark.parametrize(
    ("branches", "exclusive"),
    [
        ([TEXT, WHOLE], True),
        ([TEXT], True),
        ([WHOLE, {"type": "number"}], False),
        ([{"type": ["string", "null"]}, WHOLE], True),
        ([{"const": 1}, {"enum": [2, "1"]}], True),
        ([{"const": 1}, {"enum": [1.0]}], False),
        ([CAT, DOG], True),
        ([CAT, {**DOG, "required": []}], False),
        ([CAT, CAT], False),
        ([{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}], True),
        ([{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/gone"}], False),
        ([{}, TEXT], False),
        ([False, {}], True),
    ],
)
def test_one_of_becomes_any_of_where_nothing_matches_twice(branches: list[Any], exclusive: bool) -> None:
    done = made({"oneOf": branches, "$defs": {"cat": CAT, "dog": DOG}})
    assert ("anyOf" in done) == exclusive
    assert ("oneOf" in done) == (not exclusive)


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"uniqueItems": False}, {}),
        ({"uniqueItems": True, "maxItems": 1}, {"maxItems": 1}),
        ({"uniqueItems": True}, {"uniqueItems": True}),
        ({"format": "money"}, {}),
        ({"format": "uuid"}, {"format": "uuid"}),
        ({"properties": {"format": {"format": "money"}}}, {"properties": {"format": {}}}),
        ({"minProperties": 1, "required": ["a"]}, {"required": ["a"]}),
        ({"minimum": 3, "exclusiveMinimum": True}, {"exclusiveMinimum": 3}),
        ({"maximum": 3, "exclusiveMaximum": False}, {"maximum": 3}),
        ({"if": {}, "dependencies": {}}, {}),
        ({"then": {}, "else": {}}, {}),
        ({"x-guidance": {"lenient": True}, "items": {"x-guidance": {}}}, {"items": {}}),
        ({"properties": {"a": {}}, "additionalProperties": False, "maxProperties": 1},
         {"properties": {"a": {}}, "additionalProperties": False}),
        (True, {}),
    ],
)  # fmt: skip
def test_what_says_nothing_is_left_out(schema: Any, expected: Any) -> None:
    assert made(schema) == expected


def test_the_order_of_properties_stays() -> None:
    names = ["z", "a", "m"]
    assert list(made({"properties": {name: {} for name in names}})["properties"]) == names


def test_nothing_but_json_with_schemas_inside() -> None:
    for text in (
        "3",
        "null",
        "[1]",
        "{",
        '{"maximum": NaN}',
        '{"not": ' * 61 + "{}" + "}" * 61,
    ):
        with pytest.raises(UsageError, match="the JSON schema"):
            prepared(text)


def has_format(schema: Any) -> bool:
    return "format" in json.dumps(schema)


OBJECTS = st.dictionaries(
    st.sampled_from(NAMES), st.one_of(st.none(), st.integers(0, 9), st.text(max_size=3))
)
LISTS = st.lists(st.integers(0, 3), max_size=3)


@given(data=st.data(), schema=random_schemas())
def test_the_same_values_match(data: st.DataObject, schema: Any) -> None:
    """Values drawn for either form match the other; formats are narrowed on purpose and left out here."""
    try:
        done = made(schema)
    except UsageError:
        return
    if has_format(schema):
        return
    before, after = jsonschema.Draft202012Validator(schema), jsonschema.Draft202012Validator(done)
    value = data.draw(st.one_of(OBJECTS, st.integers(-9, 9), st.text(max_size=4), LISTS))
    assert before.is_valid(value) == after.is_valid(value)
