"""Which blocking each layer of a model runs with: read once when it is loaded, from a table made beforehand.

The table holds what a fitted predictor found best at the corners of a grid of matrix sizes, for each class of
row counts; a layer takes the nearest corner. Without a table, or with one made for other kernels, every layer
runs with the kernels' own choice. Results are the same bit for bit either way.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from trimtab import _native

SCHEMA = "blocking/1"
_LONGEST_BYTES = 4 * 2**20


class MatrixLike(Protocol):
    """What of a packed matrix decides how its product is cut."""

    @property
    def format(self) -> str: ...
    @property
    def rows(self) -> int: ...
    @property
    def inputs(self) -> int: ...
    @property
    def gated(self) -> bool: ...


class KernelChooser:
    """Picks blockings for the matrices of a model.

    Parameters
    ----------
    table : format -> `plain` and `gated` -> sizes, ways to cut a product, which is best where; empty: none
    """

    def __init__(self, table: Mapping[str, Any] | None = None) -> None:
        self.table = table or {}
        self._cache: dict[tuple[str, int, int, bool], list[Any]] = {}

    @classmethod
    def load(cls, path: Path, kernels: str, threads: int) -> KernelChooser:
        """The table for a kernel set and thread count from a file.

        Raises
        ------
        ValueError : the file is no such table, or holds none for them
        OSError : it cannot be read
        """
        if path.stat().st_size > _LONGEST_BYTES:
            raise ValueError("too large for a table of blockings")
        content = json.loads(path.read_text(encoding="utf-8"))
        try:
            if content["schema"] != SCHEMA or content["kernels"] != kernels:
                raise ValueError(f"made for kernels {content['kernels']!r}, {content['schema']!r}")
            chooser = cls(content["threads"][str(threads)])
            chooser.check()
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(f"no table of blockings for {threads} threads: {error!r}") from None
        return chooser

    def check(self) -> None:
        """Raise unless every pick can be made: ValueError, KeyError, TypeError, IndexError."""
        for kinds in self.table.values():
            for told in kinds.values():
                ways = [_native.Blocking(*way) for way in told["ways"]]
                corners = len(told["outputs"]) * len(told["inputs"]) * (len(_native.ROW_CLASSES) + 1)
                picks = [int(word) for word in told["picks"].split()]
                if len(picks) != corners or not corners or not 0 <= min(picks) <= max(picks) < len(ways):
                    raise ValueError("a table of blockings with picks that lead nowhere")
                if any(not size > 0 for size in (*told["outputs"], *told["inputs"])):
                    raise ValueError("a table of blockings with sizes that are none")

    def pick(self, matrix: MatrixLike) -> Sequence[Any]:
        """`_native.Blocking` for every class of row counts; none where nothing is known."""
        key = (matrix.format, matrix.rows, matrix.inputs, matrix.gated)
        if key not in self._cache:
            self._cache[key] = self._picked(*key)
        return self._cache[key]

    def _picked(self, format: str, outputs: int, inputs: int, gated: bool) -> list[Any]:
        told = self.table.get(format, {}).get("gated" if gated else "plain")
        if told is None:
            return []
        row, column = _nearest(told["outputs"], outputs), _nearest(told["inputs"], inputs)
        width = len(told["inputs"])
        step = len(told["outputs"]) * width
        picks = told["picks"].split()
        ways = told["ways"]
        return [
            _native.Blocking(*ways[int(picks[kind * step + row * width + column])])
            for kind in range(len(_native.ROW_CLASSES) + 1)
        ]


def _nearest(sizes: Sequence[float], size: int) -> int:
    return min(range(len(sizes)), key=lambda place: abs(math.log(sizes[place] / size)))
