"""Typed, bounded reading of a model file's key-value settings; every error names the file and the key."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar

from trimtab.errors import BadFile, Unsupported

T = TypeVar("T")

# Far above any real model and far below what would make a loop or an allocation dangerous.
MOST = {
    "layers": 1 << 10, "heads": 1 << 12, "head_dim": 1 << 12, "width": 1 << 20, "vocab": 1 << 22,
    "context": 1 << 27,
}  # fmt: skip


def is_list(value: object) -> bool:
    """Whether a stored value is an array, decoded or not, and neither text nor an object."""
    return hasattr(value, "__len__") and not isinstance(value, str | bytes | Mapping)


class Fields:
    """Settings of one file under one prefix; a null value counts as missing.

    Parameters
    ----------
    path : the file named in errors
    values : the raw settings
    prefix : put before every key
    """

    def __init__(self, path: Path, values: Mapping[str, Any], prefix: str = "") -> None:
        self.path, self.values, self.prefix = path, values, prefix

    def raw(self, key: str) -> Any:
        """The value as stored, or None."""
        return self.values.get(self.prefix + key)

    def count(self, key: str, most: int, default: int | None = None, *, least: int = 1) -> int:
        """A whole number from `least` to `most`; a list with one entry a layer counts if all agree."""
        value = self.raw(key)
        if value is None:
            return self._default(key, default)
        if is_list(value):
            value = self._uniform(key, value)
        if isinstance(value, bool) or not isinstance(value, Integral) or not least <= int(value) <= most:
            raise self.bad(key, value, f"a whole number from {least} to {most}")
        return int(value)

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number."""
        value = self.raw(key)
        if value is None:
            return self._default(key, default)
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            raise self.bad(key, value, "a finite number")
        return float(value)

    def positive(self, key: str, default: float | None = None) -> float:
        """A finite number above zero."""
        value = self.number(key, default)
        if value <= 0:
            raise self.bad(key, value, "above 0")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self.raw(key)
        if value is None:
            return self._default(key, default)
        if not isinstance(value, str):
            raise self.bad(key, value, "text")
        return value

    def flag(self, key: str, default: bool | None = None) -> bool:
        value = self.raw(key)
        if value is None:
            return self._default(key, default)
        if not isinstance(value, bool):
            raise self.bad(key, value, "true or false")
        return value

    def numbers(self, key: str) -> tuple[float, ...]:
        """A list of finite numbers; empty when missing."""
        value = self.raw(key)
        if value is None:
            return ()
        if not is_list(value) or len(value) > MOST["head_dim"]:
            raise self.bad(key, value, "a short list of numbers")
        if not all(isinstance(x, Real) and not isinstance(x, bool) and math.isfinite(x) for x in value):
            raise self.bad(key, value, "a list of finite numbers")
        return tuple(float(x) for x in value)

    def inside(self, key: str) -> Fields | None:
        """The settings nested under a key, or None when there are none."""
        value = self.raw(key)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.bad(key, value, "an object")
        return Fields(self.path, value)

    def bad(self, key: str, value: object, wanted: str) -> BadFile:
        """The error for a value that is not what it must be."""
        shown = repr(value)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        return BadFile(self.path, f"`{self.prefix}{key}` is {shown}; it must be {wanted}")

    def _default(self, key: str, default: T | None) -> T:
        if default is None:
            raise BadFile(self.path, f"`{self.prefix}{key}` is missing")
        return default

    def _uniform(self, key: str, values: Any) -> Any:
        """The common entry of a per-layer list."""
        if not 1 <= len(values) <= MOST["layers"]:
            raise self.bad(key, f"a list of {len(values)}", "one number or one a layer")
        different = {int(v) if isinstance(v, Integral) else repr(v) for v in values}
        if len(different) > 1:
            raise Unsupported(f"`{self.prefix}{key}` of {self.path} differs between layers; not supported")
        return values[0]
