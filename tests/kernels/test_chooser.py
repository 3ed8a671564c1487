"""Blockings picked for a model's layers: the nearest corner's, and none of a table that does not fit."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab import _native
from trimtab.kernels.chooser import KernelChooser

CLASSES = len(_native.ROW_CLASSES) + 1


@dataclass(frozen=True)
class Layer:
    format: str
    rows: int
    inputs: int
    gated: bool = False


def table(ways: list[list[int]], picks: list[int], outputs: tuple[int, ...], inputs: tuple[int, ...]) -> Any:
    told = {
        "outputs": list(outputs),
        "inputs": list(inputs),
        "ways": ways,
        "picks": " ".join(map(str, picks)),
    }
    return {"q4": {"plain": told}}


def as_file(path: Path, picks: Any, **changed: Any) -> Path:
    content = {"schema": "blocking/1", "kernels": "avx512", "threads": {"2": picks}} | changed
    path.write_text(json.dumps(content))
    return path


def grains(picked: Any) -> list[int]:
    return [blocking.grain for blocking in picked]


@given(outputs=st.integers(1, 100_000), inputs=st.integers(1, 100_000))
def test_the_nearest_corner_is_taken(outputs: int, inputs: int) -> None:
    sizes = (256, 1024, 4096)
    ways = [[0, 0, 0, number] for number in range(CLASSES * 9)]
    chooser = KernelChooser(table(ways, list(range(CLASSES * 9)), sizes, sizes))
    chooser.check()

    def corner(size: int) -> int:  # a corner reaches to the geometric middle between it and the next
        return 0 if size * size <= 256 * 1024 else 1 if size * size <= 1024 * 4096 else 2

    place = corner(outputs) * 3 + corner(inputs)
    assert grains(chooser.pick(Layer("q4", outputs, inputs))) == [kind * 9 + place for kind in range(CLASSES)]


def test_what_is_not_in_the_table_is_left_to_the_kernels() -> None:
    chooser = KernelChooser(table([[0, 0, 0, 1]], [0] * CLASSES, (64,), (64,)))
    assert grains(chooser.pick(Layer("q4", 9, 9))) == [1] * CLASSES
    assert list(chooser.pick(Layer("q8", 9, 9))) == []
    assert list(chooser.pick(Layer("q4", 9, 9, gated=True))) == []
    assert list(KernelChooser().pick(Layer("q4", 9, 9))) == []


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    good = table([[4, 2, 65536, 8]], [0] * CLASSES, (64,), (64,))
    loaded = KernelChooser.load(as_file(tmp_path / "good", good), "avx512", 2)
    assert [b.rows for b in loaded.pick(Layer("q4", 1, 1))] == [4] * CLASSES
    told = good["q4"]["plain"]
    wrong: list[Any] = [
        {"q4": {"plain": told | change}}
        for change in (
            {"picks": "0"}, {"picks": "1 " * CLASSES}, {"picks": "x " * CLASSES}, {"ways": [[4, 9, 0, 0]]},
            {"outputs": [0]}, {"inputs": []}, {"ways": 3},
        )
    ]  # fmt: skip
    for number, content in enumerate([*wrong, {"q4": 3}, {"q4": {"plain": {}}}, 7]):
        with pytest.raises(ValueError, match=r"."):
            KernelChooser.load(as_file(tmp_path / f"wrong{number}", content), "avx512", 2)
    for change in ({"schema": "blocking/2"}, {"kernels": "avx2"}, {"threads": {"3": good}}, {"threads": []}):
        with pytest.raises(ValueError, match=r"."):
            KernelChooser.load(as_file(tmp_path / "changed", good, **change), "avx512", 2)


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_any_bytes_are_a_table_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "table"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"."):
        KernelChooser.load(path, "avx512", 2)
