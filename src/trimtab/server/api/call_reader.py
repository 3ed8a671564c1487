"""Reads calls of functions out of an answer's text, piece by piece as it comes.

The text is held back only as long as it may still become a call. Grammars make the calls well-formed; this
reader relies on that for speed, not for safety: text that only looks like a call stays text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.server.api.call_form import BEGIN, END, TRIGGER, head


@dataclass(frozen=True, slots=True)
class Piece:
    """Something new: text, the name that begins a call, or a part of a call's arguments.

    Parameters
    ----------
    call : number of the call in this answer; -1 for text outside of calls
    name : of the function, at the beginning of its call and only there
    text : of the answer or of the arguments
    """

    call: int
    text: str
    name: str | None = None


class CallReader:
    """The state of one answer.

    Parameters
    ----------
    names : of the functions that may be called
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.calls = 0
        self._heads = {head(name): name for name in names}
        self._held = ""
        self._inside = False  # the arguments of a call
        self._closing = ""  # what must follow them
        self._depth = 0
        self._quoted = False
        self._escaped = False

    def push(self, text: str) -> list[Piece]:
        """Take more of the answer; what can be told by now."""
        pieces: list[Piece] = []
        self._held += text
        while self._held and (piece := self._next()) is not None:
            if piece.text or piece.name is not None:
                pieces.append(piece)
        return pieces

    def finish(self) -> list[Piece]:
        """The answer has ended: what was held back is text, unless a call began or ended with it."""
        held, self._held = self._held, ""
        if held.lstrip().startswith(TRIGGER):  # nothing but a limit ends an answer there
            return []
        if self._inside or self._closing or not held or (self.calls and not held.strip()):
            return []
        return [Piece(-1, held)]

    def _next(self) -> Piece | None:
        if self._inside:
            return self._arguments()
        if self._closing:
            if self._closing.startswith(self._held):
                return None
            self._held = self._held.removeprefix(self._closing)
            self._closing = ""
        return self._outside()

    def _outside(self) -> Piece | None:
        """Text, or the beginning of a call; None until more has come."""
        held = self._held
        at = held.find(TRIGGER)
        if at < 0:
            text = held[: len(held) - _overlap(held, TRIGGER)].rstrip()
            self._held = held[len(text) :]
            return Piece(-1, text) if text else None
        if before := held[:at].rstrip():
            self._held = held[at:]
            return Piece(-1, before)
        call = held[at:]
        for opening, name in self._heads.items():
            whole = BEGIN + opening
            if call.startswith(whole):
                self._held = call[len(whole) :]
                self._inside, self._depth = True, 0
                self.calls += 1
                return Piece(self.calls - 1, "", name)
            if whole.startswith(call):
                return None
        # It looked like a call and is none of these functions.
        self._held = call[len(TRIGGER) :]
        return Piece(-1, TRIGGER)

    def _arguments(self) -> Piece | None:
        """As much of the arguments as there is."""
        held = self._held
        for at, letter in enumerate(held):
            if self._quoted:
                if self._escaped:
                    self._escaped = False
                elif letter == "\\":
                    self._escaped = True
                elif letter == '"':
                    self._quoted = False
            elif letter == '"':
                self._quoted = True
            elif letter in "{[":
                self._depth += 1
            elif letter in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self._inside, self._closing = False, "}" + END
                    self._held = held[at + 1 :]
                    return Piece(self.calls - 1, held[: at + 1])
        self._held = ""
        return Piece(self.calls - 1, held)


def _overlap(text: str, marker: str) -> int:
    """Length of the longest end of `text` that begins `marker`."""
    for size in range(min(len(text), len(marker) - 1), 0, -1):
        if text.endswith(marker[:size]):
            return size
    return 0
