"""Brings a JSON schema into the form the grammar compiler takes, without changing what it allows.

Keywords that say nothing here are left out, `oneOf` becomes `anyOf` where no value can match twice, and what
would cost minutes to compile is refused. A keyword that cannot be enforced stays: the compiler names it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from fractions import Fraction
from math import gcd, lcm
from typing import Any, TypeAlias

from trimtab.errors import UsageError

Schema: TypeAlias = dict[str, Any] | bool

DEEPEST = 60
"""Schemas inside schemas; the compiler's own reader stops at twice as many levels of JSON."""
LARGEST_MULTIPLE = 20_000
"""The compiler needs a state for each remainder, so the common multiple of all `multipleOf` is bounded."""
FORMATS = frozenset({
    "date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri",
})  # fmt: skip
"""Formats that are enforced. The standard takes every other one for a remark."""

_YEAR = "([1-9][0-9]{3}|0[0-9]{2}[1-9]|0[0-9][1-9]0|0[1-9]00)"
_FOURTH = "(0[48]|[2468][048]|[13579][26])"  # multiples of four, without 0
_LEAP_DAY = f"([0-9]{{2}}{_FOURTH}|{_FOURTH}00)-02-29"
_DATE = f"({_YEAR}-((0[13-9]|1[0-2])-[0-9]{{2}}|02-([01][0-9]|2[0-8]))|{_LEAP_DAY})"
_USUAL = {
    "date": f"^{_DATE}",
    "date-time": f"^{_DATE}T[0-9]{{2}}:[0-9]{{2}}:[0-5]",
    "time": "^[0-9]{2}:[0-9]{2}:[0-5]",
}
"""Of what a format allows, what programs read: no year 0, no leap second, a leap day in leap years only."""

_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_SINGLE = (
    "items", "additionalItems", "additionalProperties", "unevaluatedItems", "unevaluatedProperties",
    "propertyNames", "contains", "not", "if", "then", "else",
)  # fmt: skip
_LAYOUT = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}


def prepared(text: str) -> str:
    """The schema as the compiler takes it.

    Raises
    ------
    UsageError : it is no JSON schema, is nested too deeply, or would take too long to compile
    """
    try:
        schema = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _wrong(f"is not JSON: {error}") from None
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise _wrong(f"must be an object, not {text[:40]}")
    made = _simplified(schema, schema, 0)
    _check_multiples(made)
    assert isinstance(made, dict)
    return json.dumps({**made, "x-guidance": _LAYOUT}, ensure_ascii=False)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _simplified(schema: Any, root: dict[str, Any], depth: int) -> Schema:
    if isinstance(schema, bool):
        return schema
    if not isinstance(schema, dict):
        raise _wrong(f"has {schema!r:.40} where a schema belongs")
    if depth > DEEPEST:
        raise _wrong(f"is nested deeper than {DEEPEST} levels")
    made = _mapped(schema, lambda inner: _simplified(inner, root, depth + 1))
    made.pop("x-guidance", None)
    if made.get("uniqueItems") is False or _at_most(made, "maxItems", 1):
        made.pop("uniqueItems", None)
    kind = made.get("format")
    if isinstance(kind, str) and kind not in FORMATS:
        del made["format"]
    elif kind in _USUAL and "pattern" not in made:
        made["pattern"] = _USUAL[kind]
    _count_properties(made)
    for keyword in ("dependentRequired", "dependentSchemas", "dependencies"):
        if made.get(keyword) == {}:
            del made[keyword]
    if "then" not in made and "else" not in made:
        made.pop("if", None)
    if "if" not in made:
        made.pop("then", None)
        made.pop("else", None)
    for side, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(made.get(side), bool):  # the fourth draft's way to say it
            strict = made.pop(side)
            if strict and bound in made:
                made[side] = made.pop(bound)
    branches = made.get("oneOf")
    if isinstance(branches, list) and "anyOf" not in made and _exclusive(branches, root):
        made["anyOf"] = made.pop("oneOf")
    return made


def _count_properties(schema: dict[str, Any]) -> None:
    """Leave out bounds on the number of properties that hold anyway."""
    needed = schema.get("required")
    least = len(set(map(str, needed))) if isinstance(needed, list) else 0
    if _at_most(schema, "minProperties", least):
        del schema["minProperties"]
    elif not _at_most(schema, "minProperties", 1) and "minProperties" in schema:
        # A name may come twice in a text and counts once when it is read.
        raise _wrong("has `minProperties` above the number of required names, which cannot be enforced")
    named = schema.get("properties")
    closed = schema.get("additionalProperties") is False and "patternProperties" not in schema
    if closed and isinstance(named, dict) and _at_least(schema, "maxProperties", len(named)):
        del schema["maxProperties"]


def _mapped(schema: dict[str, Any], change: Callable[[Any], Schema]) -> dict[str, Any]:
    """The schema with each schema directly inside it changed; the order of properties stays."""
    made = dict(schema)
    for keyword in _MAPS:
        if isinstance(inner := made.get(keyword), dict):
            made[keyword] = {name: change(value) for name, value in inner.items()}
    for keyword in _LISTS:
        if isinstance(inner := made.get(keyword), list):
            made[keyword] = [change(value) for value in inner]
    for keyword in _SINGLE:
        if keyword in made and not (keyword in _LISTS and isinstance(made[keyword], list)):
            made[keyword] = change(made[keyword])
    return made


def _inside(schema: dict[str, Any]) -> Iterator[Any]:
    """The schemas directly inside a schema."""
    for keyword in _MAPS:
        if isinstance(inner := schema.get(keyword), dict):
            yield from inner.values()
    for keyword in _LISTS:
        if isinstance(inner := schema.get(keyword), list):
            yield from inner
    for keyword in _SINGLE:
        if isinstance(inner := schema.get(keyword), dict):
            yield inner


def _at_most(schema: dict[str, Any], keyword: str, most: int) -> bool:
    value = schema.get(keyword)
    return isinstance(value, int) and not isinstance(value, bool) and value <= most


def _at_least(schema: dict[str, Any], keyword: str, least: int) -> bool:
    value = schema.get(keyword)
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


# --- oneOf --------------------------------------------------------------------------------------------------


def _exclusive(branches: list[Any], root: dict[str, Any]) -> bool:
    """Whether a value can match one branch only, as far as types and constants tell."""
    if len(branches) > 64:
        return False
    resolved = [_resolved(branch, root) for branch in branches]
    return all(_apart(a, b, root) for place, a in enumerate(resolved) for b in resolved[place + 1 :])


def _resolved(schema: Any, root: dict[str, Any]) -> Any:
    """A schema behind its references, if they stay inside the document and say nothing else."""
    for _ in range(16):
        if not isinstance(schema, dict) or not isinstance(target := schema.get("$ref"), str):
            return schema
        if target != "#" and not target.startswith("#/"):
            return schema
        found: Any = root
        for part in target.split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, dict) or name not in found:
                return schema
            found = found[name]
        schema = found
    return schema


def _apart(a: Any, b: Any, root: dict[str, Any]) -> bool:
    """Whether no value matches both; False also means that it cannot be told."""
    if a is False or b is False:
        return True
    if not isinstance(a, dict) or not isinstance(b, dict):
        return False
    if _types(a).isdisjoint(_types(b)):
        return True
    values, others = _constants(a), _constants(b)
    if values is not None and others is not None:
        return values.isdisjoint(others)
    return _types(a) == {"object"} == _types(b) and any(
        _keys_apart(_property(a, name, root), _property(b, name, root))
        for name in _required(a) & _required(b)
    )


def _keys_apart(a: Any, b: Any) -> bool:
    values, others = _constants(a), _constants(b)
    return values is not None and others is not None and values.isdisjoint(others)


def _property(schema: dict[str, Any], name: str, root: dict[str, Any]) -> Any:
    properties = schema.get("properties")
    return _resolved(properties.get(name), root) if isinstance(properties, dict) else None


def _required(schema: dict[str, Any]) -> set[str]:
    names = schema.get("required")
    return {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()


def _constants(schema: Any) -> set[str] | None:
    """The only values a schema allows, as JSON; None when it lists none."""
    if not isinstance(schema, dict):
        return None
    if "const" in schema:
        return {_canonical(schema["const"])}
    listed = schema.get("enum")
    return {_canonical(value) for value in listed} if isinstance(listed, list) else None


def _canonical(value: Any) -> str:
    # 1 and 1.0 are one value to JSON schema.
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, sort_keys=True)


_ALL_TYPES = frozenset({"null", "boolean", "object", "array", "number", "string"})


def _types(schema: dict[str, Any]) -> frozenset[str]:
    """JSON types a schema can match; an integer is a number."""
    named = schema.get("type")
    if named is None:
        values: Any = [schema["const"]] if "const" in schema else schema.get("enum")
        return frozenset(map(_type, values)) if isinstance(values, list) else _ALL_TYPES
    names = named if isinstance(named, list) else [named]
    return frozenset("number" if name == "integer" else str(name) for name in names)


def _type(value: Any) -> str:
    names = {type(None): "null", bool: "boolean", dict: "object", list: "array", str: "string"}
    return names.get(type(value), "number")


# --- multipleOf ---------------------------------------------------------------------------------------------


def _check_multiples(schema: Schema) -> None:
    found: set[Fraction] = set()
    for value in _all(schema, "multipleOf"):
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf"):
            found.add(Fraction(str(value)))
    scale = lcm(*(value.denominator for value in found))
    states = lcm(*(int(value * scale) for value in found))
    states //= gcd(states, 10**20)  # trailing zeros of a decimal number cost no state
    if scale > 10**15 or states > LARGEST_MULTIPLE:
        raise _wrong(f"has `multipleOf` whose common multiple is above {LARGEST_MULTIPLE:,}")


def _all(schema: Any, keyword: str) -> Iterator[Any]:
    """The values of a keyword in a schema and all inside it."""
    stack = [schema]
    while stack:
        one = stack.pop()
        if isinstance(one, dict):
            if keyword in one:
                yield one[keyword]
            stack.extend(_inside(one))


def _wrong(problem: str) -> UsageError:
    return UsageError(f"the JSON schema {problem}", param="grammar")
