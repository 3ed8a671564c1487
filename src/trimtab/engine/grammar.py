"""What an output must look like: a request's own description, checked for form and size, not yet compiled.

Making one is cheap and loads nothing. `grammars` compiles it for a vocabulary, `constraint` follows one
output through it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from trimtab.errors import UsageError

Kind: TypeAlias = Literal["json_object", "json_schema", "regex", "choice", "lark"]
KINDS: tuple[Kind, ...] = ("json_object", "json_schema", "regex", "choice", "lark")

LONGEST_TEXT = 256 << 10  # characters; five thousand properties with their descriptions
MOST_CHOICES = 10_000


@dataclass(frozen=True, slots=True)
class Grammar:
    """The form of an output. Use one of the class methods.

    JSON is written on one line, with one space behind each comma and colon. An output always ends at a place
    where the grammar may end; where its token limit comes first, it is brought there by the shortest way that
    is found, and its finish reason is `length`.

    Parameters
    ----------
    kind : `json_object`, `json_schema`, `regex`, `choice` or `lark`
    text : the schema as JSON, the pattern, the choices as a JSON list, or the grammar

    Raises
    ------
    UsageError : no such kind, or a text that is too long
    """

    kind: Kind
    text: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"no grammar kind {self.kind!r}", f"known: {', '.join(KINDS)}", "grammar")
        if not isinstance(self.text, str):
            raise UsageError(f"a grammar is text, not {type(self.text).__name__}", param="grammar")
        if len(self.text) > LONGEST_TEXT:
            raise UsageError(
                f"a grammar of {len(self.text):,} characters; at most {LONGEST_TEXT:,}", param="grammar"
            )

    @classmethod
    def json_object(cls) -> Grammar:
        """Any JSON object."""
        return cls("json_object")

    @classmethod
    def json_schema(cls, schema: Any) -> Grammar:
        """JSON that a schema describes.

        Parameters
        ----------
        schema : a mapping, its JSON text, True, or a pydantic model class

        Raises
        ------
        UsageError : it is not JSON
        """
        if hasattr(schema, "model_json_schema"):
            schema = schema.model_json_schema()
        if not isinstance(schema, str):
            schema = _json(schema, "a JSON schema")
        return cls("json_schema", schema)

    @classmethod
    def regex(cls, pattern: str) -> Grammar:
        """Text that a regular expression matches as a whole; no look-around, no back-references."""
        return cls("regex", pattern)

    @classmethod
    def choice(cls, choices: Sequence[str]) -> Grammar:
        """One of these texts.

        Raises
        ------
        UsageError : there is none, one is empty, or there are too many
        """
        if isinstance(choices, str | bytes) or not isinstance(choices, Sequence) or not choices:
            raise UsageError("choices are a list of at least one text", param="grammar")
        if not all(isinstance(choice, str) and choice for choice in choices):
            raise UsageError("each choice is a text with at least one character", param="grammar")
        if len(choices) > MOST_CHOICES:
            raise UsageError(f"{len(choices):,} choices; at most {MOST_CHOICES:,}", param="grammar")
        return cls("choice", _json(list(choices), "a list of choices"))

    @classmethod
    def lark(cls, grammar: str) -> Grammar:
        """Text that a context-free grammar produces, written as llguidance's Lark dialect has it."""
        return cls("lark", grammar)


def _json(value: Any, what: str) -> str:
    if isinstance(value, Mapping):
        value = dict(value)
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"{what} must be JSON: {error}", param="grammar") from None
