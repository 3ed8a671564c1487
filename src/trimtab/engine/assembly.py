"""Puts spans together into the flat arrays of a batch.

Growing machine arrays and one pass over the sequences: the cost of a step in Python is made here, so there
is no numpy call for each token.
"""

from __future__ import annotations

from array import array
from sys import byteorder

import numpy as np

from trimtab.engine.batch import Batch, Records
from trimtab.engine.sampling import ADJUST, SAMPLING
from trimtab.engine.sequence import MASK_AT, Sequence

if array("i").itemsize != 4:
    raise ImportError("trimtab needs a platform whose C int has 32 bits")

_NO_ADJUST = np.zeros(0, ADJUST)


class Assembly:
    """The spans of one step so far."""

    __slots__ = (
        "_adjust", "_adjust_start", "_adjusted", "_hidden", "_masks", "_num_masks", "_page_start", "_pages",
        "_positions", "_records", "_span_start", "_tokens", "_wanted", "rows", "wanted",
    )  # fmt: skip

    def __init__(self) -> None:
        self.rows = 0
        self.wanted = 0
        self._tokens = array("i")
        self._positions = array("i")
        self._span_start = array("i", (0,))
        self._page_start = array("i", (0,))
        self._pages = array("i")
        self._wanted = array("i")
        self._hidden = array("i")
        self._records = bytearray()
        self._adjust: list[Records] = []
        self._adjust_start = array("i", (0,))
        self._adjusted = 0
        self._masks = bytearray()
        self._num_masks = 0

    def decode(self, sequence: Sequence, count: int = 1, draft: array[int] | None = None) -> None:
        """Feed a sequence's next `count` tokens and a draft; want what follows the last and each drafted."""
        tokens = sequence.tokens
        position = sequence.computed
        if count == 1:
            self._tokens.append(tokens[position])
            self._positions.append(position)
        else:
            self._tokens += tokens[position : position + count]
            self._positions.extend(range(position, position + count))
        row = self.rows + count - 1
        self.rows = row + 1
        position += count
        if position == len(tokens):
            draw = position - sequence.prompt_length
            self._want(sequence, row, draw)
            if draft:
                self._tokens += draft
                for ahead in range(1, len(draft) + 1):
                    self._positions.append(position + ahead - 1)
                    self._want(sequence, row + ahead, draw + ahead, ahead)
                self.rows += len(draft)
        self._close(sequence)

    def prefill(self, sequence: Sequence, count: int, wants_next: bool) -> None:
        """Feed the next `count` tokens, scored if asked for; `wants_next`: choose what follows the last."""
        start = sequence.computed
        stop = start + count
        self._tokens += sequence.tokens[start:stop]
        self._positions.extend(range(start, stop))
        scored = count - 1 if stop == len(sequence.tokens) else count
        if sequence.scoring and sequence.score_record is not None and scored:
            records = np.repeat(sequence.score_record, scored)
            records["score"] = sequence.tokens[start + 1 : start + 1 + scored]
            self._records += records.tobytes()
            self._wanted.extend(range(self.rows, self.rows + scored))
            self.wanted += scored
        if sequence.pooling:
            self._hidden.extend(range(self.rows, self.rows + count))
        self.rows += count
        if wants_next:
            self._want(sequence, self.rows - 1, len(sequence.tokens) - sequence.prompt_length)
        self._close(sequence)

    def batch(self) -> Batch:
        """The arrays; the assembly must not be used any more."""
        if self._adjusted:
            self._pad_adjust_start(self.wanted + 1)
            adjust = np.concatenate(self._adjust)
            adjust_start = np.frombuffer(self._adjust_start, np.int32)
        else:
            adjust, adjust_start = _NO_ADJUST, np.zeros(self.wanted + 1, np.int32)
        return Batch(
            tokens=np.frombuffer(self._tokens, np.int32),
            positions=np.frombuffer(self._positions, np.int32),
            span_start=np.frombuffer(self._span_start, np.int32),
            page_start=np.frombuffer(self._page_start, np.int32),
            pages=np.frombuffer(self._pages, np.int32),
            wanted=np.frombuffer(self._wanted, np.int32),
            sampling=np.frombuffer(self._records, SAMPLING),
            adjust_start=adjust_start,
            adjust=adjust,
            mask=np.frombuffer(self._masks, np.uint32).reshape(self._num_masks, -1) if self._masks else None,
            hidden=np.frombuffer(self._hidden, np.int32) if self._hidden else None,
        )

    def _want(self, sequence: Sequence, row: int, draw: int, ahead: int = 0) -> None:
        self._wanted.append(row)
        if sequence.constraint is None:
            self._records += sequence.record
        else:
            self._masks += sequence.constraint.masks[ahead]
            self._num_masks += 1
            record = sequence.record
            self._records += record[:MASK_AT] + self._num_masks.to_bytes(4, byteorder) + record[MASK_AT + 4 :]
        self._records += draw.to_bytes(8, byteorder)
        self.wanted += 1
        if sequence.adjust is not None:
            self._attach(sequence.adjust.entries)

    def _attach(self, entries: Records) -> None:
        """Give entries to the wanted row added last."""
        if not len(entries):
            return
        self._pad_adjust_start(self.wanted)
        self._adjust.append(entries)
        self._adjusted += len(entries)
        self._adjust_start.append(self._adjusted)

    def _pad_adjust_start(self, length: int) -> None:
        """Rows without entries own none."""
        self._adjust_start.extend([self._adjusted] * (length - len(self._adjust_start)))

    def _close(self, sequence: Sequence) -> None:
        self._span_start.append(self.rows)
        self._pages += sequence.pages
        self._page_start.append(len(self._pages))


def scoring_batch(tokens: array[int], start: int, pages: list[int]) -> Batch:
    """One span whose every row is wanted: `tokens` of a sequence from position `start`."""
    count = len(tokens)
    return Batch(
        tokens=np.frombuffer(tokens, np.int32),
        positions=np.arange(start, start + count, dtype=np.int32),
        span_start=np.array([0, count], np.int32),
        page_start=np.array([0, len(pages)], np.int32),
        pages=np.array(pages, np.int32),
        wanted=np.arange(count, dtype=np.int32),
        sampling=np.zeros(count, SAMPLING),
        adjust_start=np.zeros(count + 1, np.int32),
        adjust=_NO_ADJUST,
    )
