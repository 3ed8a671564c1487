"""What a chat template may still spend, and how much a value weighs.

A template comes with the model file, so it is untrusted code. Every operation of the sandbox is paid here
before it runs; whoever computes a size must not trust the value either, since twenty nested pairs of one list
print as a million elements.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import cast

from jinja2.utils import Namespace

STEP = 64  # work of one operation; a character passing through costs 1
SLOT = 8  # work of one element copied by reference
DEEPEST = 100  # nesting beyond this is refused, far below Python's own recursion limit

BASE_WORK = 16 << 20  # about 250,000 operations, roughly half a second
BASE_TEXT = 16 << 20
BASE_OUTPUT = 1 << 20
WORK_PER_INPUT, TEXT_PER_INPUT, OUTPUT_PER_INPUT = 256, 32, 16  # long conversations may cost more
SECONDS = 5.0


class Exhausted(Exception):
    """A template asked for more work, text or depth than it may have."""


class Meter:
    """The budget of one rendering, in proportion to its input.

    Parameters
    ----------
    clock : seconds, for the last resort of a deadline
    """

    __slots__ = ("_clock", "_deadline", "_output", "_text", "_work")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._deadline = clock() + SECONDS
        self._work, self._text, self._output = BASE_WORK, BASE_TEXT, BASE_OUTPUT

    def admit(self, value: object) -> None:
        """Size the budget by the input; only values of JSON's kinds have a size."""
        self._work = self._text = 1 << 62
        before = self._work
        self.weigh(value)
        size = before - self._work
        self._work = BASE_WORK + WORK_PER_INPUT * size
        self._text = BASE_TEXT + TEXT_PER_INPUT * size
        self._output = BASE_OUTPUT + OUTPUT_PER_INPUT * size

    def step(self, work: int = 0) -> None:
        """Pay for one operation that also touches `work` characters or slots."""
        self._work -= STEP + work
        if self._work < 0 or self._clock() > self._deadline:
            raise Exhausted("does more work than a chat template may")

    def make(self, length: int) -> None:
        """Pay for text or a list about to be made, by its length."""
        self._text -= length
        if self._text < 0:
            raise Exhausted("builds more text than a chat template may")
        self.step(length)

    def write(self, length: int) -> None:
        """Pay for characters of output."""
        self._output -= length
        if self._output < 0:
            raise Exhausted("writes more text than a chat template may")
        self.step(length)

    def weigh(self, value: object) -> int:
        """Pay for visiting everything inside a value, as printing or comparing it would.

        Returns
        -------
        a bound on the characters of the value's text, without escapes
        """
        if isinstance(value, str):
            self.step(len(value))
            return len(value)
        inner = _children(value)
        if inner is None:
            self.step()
            return _scalar_length(value)
        length, open_iterators = 2, [iter(inner)]
        while open_iterators:
            child = next(open_iterators[-1], _END)
            if child is _END:
                open_iterators.pop()
            elif isinstance(child, str):
                self.step(len(child))
                length += len(child) + 4  # quotes, comma, space
            elif (inner := _children(child)) is None:
                self.step()
                length += _scalar_length(child) + 2
            else:
                if len(open_iterators) >= DEEPEST:
                    raise Exhausted(f"nests values more than {DEEPEST} deep")
                self.step()
                length += 4
                open_iterators.append(iter(inner))
        return length


_END = object()
_CONTAINERS: tuple[type, ...] = (
    list,
    tuple,
    set,
    frozenset,
    type({}.keys()),
    type({}.values()),
    type({}.items()),
)


def _children(value: object) -> Iterable[object] | None:
    """What lies directly inside a value, or None for one that holds nothing."""
    if isinstance(value, _CONTAINERS):
        return cast("Iterable[object]", value)
    if isinstance(value, Namespace):
        value = value._Namespace__attrs
    if isinstance(value, Mapping):
        return (part for pair in value.items() for part in pair)
    return None


def _scalar_length(value: object) -> int:
    if isinstance(value, int):
        return value.bit_length() // 3 + 2
    return len(value) if isinstance(value, bytes) else 32
