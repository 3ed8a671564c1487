"""Random JSON schemas: instances of a schema of schemas, which hypothesis-jsonschema draws from.

The standard's own description refers to itself, which that library does not follow, so each kind of schema
has a description of its own here, with holes that are filled by further draws. Names are few, so that
`required` and `properties` often meet; some of the schemas use keywords that cannot be enforced, and some
describe nothing at all.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis_jsonschema import from_schema

NAMES = ["name", "id", "tags", "größe", 'a"b', "x y", ""]
PATTERNS = [
    "^[a-z]+$",
    "^\\d{3}-\\d{4}$",
    "a|bc",
    "^(foo|bar)?x{2,5}$",
    "[^\\n]{2}",
    "^\\w+@\\w+\\.com$",
    "\\s",
]
FORMATS = [
    "date",
    "time",
    "date-time",
    "uuid",
    "ipv4",
    "ipv6",
    "email",
    "hostname",
    "duration",
    "uri",
    "regex",
]


def _closed(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    return {
        "type": "object", "properties": properties, "required": required or [], "additionalProperties": False,
    }  # fmt: skip


def _listed(items: Any, least: int, most: int) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def _whole(low: int, high: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": low, "maximum": high}


_VALUE = {
    "enum": [None, True, 0, -3, 2.5, 1e20, "", "text", 'qu"ote', "ü\n", [], [1, "x"], {}, {"k": [None]}]
}
_STRING = _closed(
    {
        "type": {"const": "string"}, "minLength": _whole(0, 4), "maxLength": _whole(3, 12),
        "pattern": {"enum": PATTERNS},
    },
    ["type"],
)  # fmt: skip
_FORMAT = _closed({"type": {"const": "string"}, "format": {"enum": FORMATS}}, ["type", "format"])
_PLAIN = _closed(
    {"type": {"enum": ["string", "integer", "number", "boolean", "null", ["string", "null"]]}}, ["type"]
)
_NUMBER = _closed(
    {
        "type": {"enum": ["integer", "number"]}, "minimum": {"enum": [-1000, -2.5, 0, 1, 7]},
        "maximum": {"enum": [8, 12.25, 100, 10**9]}, "exclusiveMinimum": {"enum": [-5, 0]},
        "exclusiveMaximum": {"enum": [10, 1e6]}, "multipleOf": {"enum": [1, 2, 5, 0.5, 7]},
    },
    ["type"],
)  # fmt: skip
_CONSTANT = {
    "anyOf": [_closed({"const": _VALUE}, ["const"]), _closed({"enum": _listed(_VALUE, 1, 4)}, ["enum"])]
}


_HOLE = "?"  # stands for a schema to be drawn on its own
_INNER = {"const": _HOLE}
_ARRAY = _closed(
    {
        "type": {"const": "array"}, "items": _INNER, "minItems": _whole(0, 2), "maxItems": _whole(2, 4),
        "prefixItems": _listed(_INNER, 1, 2), "uniqueItems": {"type": "boolean"},
    },
    ["type"],
)  # fmt: skip
_OBJECT = _closed(
    {
        "type": {"const": "object"},
        "properties": _closed(dict.fromkeys(NAMES, _INNER)),
        "required": {**_listed({"enum": NAMES}, 0, 4), "uniqueItems": True},
        "additionalProperties": {"anyOf": [{"type": "boolean"}, _INNER]},
        "minProperties": _whole(0, 1), "maxProperties": _whole(4, 6),
    },
    ["type", "properties"],
)  # fmt: skip
_COMBINED = [
    _closed({keyword: _listed(_INNER, 1, most)}, [keyword])
    for keyword, most in (("anyOf", 3), ("oneOf", 3), ("allOf", 2))
]
_REFUSED = [
    _closed({"not": _INNER}, ["not"]), _closed({"if": _INNER, "then": _INNER}, ["if", "then"]),
    _closed({"type": {"const": "array"}, "contains": _INNER}, ["type", "contains"]),
    _closed({"propertyNames": _STRING}, ["propertyNames"]), {"type": "boolean"}, _closed({}),
]  # fmt: skip

_LEAVES = [from_schema(form) for form in (_STRING, _FORMAT, _PLAIN, _NUMBER, _CONSTANT)]
_BRANCHES = [from_schema(form) for form in (_ARRAY, _OBJECT, _OBJECT, {"anyOf": _COMBINED})]
_SELDOM = from_schema({"anyOf": _REFUSED})


@st.composite
def random_schemas(draw: st.DrawFn, depth: int = 2) -> Any:
    """Schemas with up to `depth` levels inside."""
    forms = [*_LEAVES, *_BRANCHES] if depth else _LEAVES
    schema = draw(_SELDOM if depth and draw(st.integers(0, 29)) == 29 else st.one_of(*forms))

    def filled(value: Any) -> Any:
        if value == _HOLE:
            return draw(random_schemas(depth - 1))
        if isinstance(value, dict):
            return {name: filled(inner) for name, inner in value.items()}
        return [filled(inner) for inner in value] if isinstance(value, list) else value

    return filled(schema)
