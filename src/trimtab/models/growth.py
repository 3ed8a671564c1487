"""How large the result of an operation in a chat template would be, found out before it is made."""

from __future__ import annotations

import re
from collections.abc import Sized
from typing import Any

from trimtab.models.meter import SLOT, Exhausted, Meter

WIDEST = 1_000  # padding, indentation, batch and slice sizes: more is never a prompt
MOST_BITS = 128  # of a whole number
LONGEST_NUMBER = 330  # digits of the largest float written out

WIDTH = re.compile(r"\d{4,}|\*")
DIGITS = re.compile(r"\d+")


def check_widths(meter: Meter, spec: str) -> None:
    """Refuse a format with huge widths or precisions, and pay for the others."""
    if WIDTH.search(spec):
        raise Exhausted(f"pads text to more than {WIDEST:,} characters")
    meter.make(sum(map(int, DIGITS.findall(spec))) + LONGEST_NUMBER)


def check_product(meter: Meter, left: Any, right: Any) -> None:
    """Refuse a product before it is made: numbers by bits, sequences by length."""
    both = isinstance(left, int) and isinstance(right, int)
    if both and left.bit_length() + right.bit_length() > MOST_BITS:
        raise Exhausted("makes a number that is too large")
    for times, sequence in ((left, right), (right, left)):
        if isinstance(times, int) and isinstance(sequence, Sized):
            meter.make(max(times, 0) * len(sequence) * (1 if isinstance(sequence, str) else SLOT))


def check_power(base: Any, exponent: Any) -> None:
    both = isinstance(base, int) and isinstance(exponent, int)
    if both and (exponent > MOST_BITS or base.bit_length() * max(exponent, 0) > MOST_BITS):
        raise Exhausted("makes a number that is too large")


def check_percent(meter: Meter, pattern: str, values: Any) -> None:
    """Refuse `pattern % values` with huge widths, and pay for the longest text that it could make."""
    check_widths(meter, pattern)
    meter.make(len(pattern) + pattern.count("%") * (LONGEST_NUMBER + meter.weigh(values)))


def check_growth(meter: Meter, name: str, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse or pay for what a filter makes out of a small value; a method has a dot before its name."""
    given = [*args, *kwargs.values()]
    numbers = [number for number in given if isinstance(number, int)]
    texts = [text for text in given if isinstance(text, str)]
    size = len(value) if isinstance(value, Sized) else 0
    kind = name.removeprefix(".")
    if kind in ("center", "ljust", "rjust", "zfill", "expandtabs", "indent", "batch", "slice", "round"):
        if any(number > WIDEST for number in numbers) or (kind == "round" and any(n > 64 for n in numbers)):
            raise Exhausted(f"asks for {kind} of more than {WIDEST:,}")
        lines = 1 + sum(map(value.count, "\n\t")) if isinstance(value, str) else 1
        meter.make(size + lines * (sum(numbers) + sum(map(len, texts)) + 8))
    elif kind == "replace" and len(given) >= 2:
        old, new, text = str(given[0]), str(given[1]), str(value)
        meter.make(len(text) + (text.count(old) if old else len(text) + 1) * len(new))
    elif name == "join":
        meter.make(size * sum(map(len, texts)))
    elif name == ".join" and given and isinstance(given[0], Sized):
        meter.make(size * len(given[0]))
    elif name == "format":
        check_percent(meter, str(value), list(given))
    elif name == "tojson":
        if any(number > 16 for number in numbers):
            raise Exhausted("asks for indentation of more than 16")
        meter.make(meter.weigh(value) * (2 + sum(numbers)))
    elif name == "sum" and any(not isinstance(one, int | float | str | None) for one in given):
        raise Exhausted("sums things that are no numbers")
    elif name in ("sort", "dictsort", "groupby", "unique", "min", "max"):
        meter.step(SLOT * size * max(size.bit_length(), 1))
