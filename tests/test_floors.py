"""Imports go down the floors only, and torch stays out of everything that serves.

The sources are read, not imported, so a violation names file and line.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent / "src" / "trimtab"
FILES = sorted(ROOT.rglob("*.py"))

# One number a folder. A module may import its own folder and every lower floor.
FLOORS = {
    "errors": 0, "papers": 0, "data": 0, "_native": 0,
    "machine": 1, "kernels": 1,
    "formats": 2, "comm": 2,
    "models": 3,
    "compress": 4, "adapt": 4, "engine": 4, "train": 4,
    "server": 5, "cluster": 5, "retrieval": 5, "evaluate": 5,
    "search": 6,
    "cli": 7,
}  # fmt: skip

# `from trimtab import LLM` reaches the engine through the package's lazy names.
PUBLIC = {"LLM": "engine", "AsyncLLM": "engine", "Grammar": "engine", "SamplingParams": "engine"}

# The reference, training and GPU side: the only places where torch and its relatives may be imported, and
# modules that nothing else may import while it loads.
HEAVY = {"torch", "triton", "transformers", "safetensors", "gguf"}
SERVING_KERNELS = {"__init__", "ops", "native", "chooser"}


def folder_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imported(tree: ast.AST, path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted module or name) of every import; relative ones are made absolute."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = ("trimtab", *path.relative_to(ROOT).parts[:-1])
                base = ".".join((*package[: len(package) - node.level + 1], *filter(None, [base])))
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def at_load(tree: ast.Module) -> ast.Module:
    """The part of a module that runs when it is imported: no function bodies, no TYPE_CHECKING blocks."""
    kept: list[ast.stmt] = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        kept.append(node)
    return ast.Module(kept, [])


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down_the_floors(path: Path) -> None:
    if path == ROOT / "__init__.py":
        return  # the public names, lazily; PUBLIC above repeats them
    here = folder_of(path)
    assert here in FLOORS, f"{path}: folder `{here}` has no floor; add it to FLOORS"
    for line, name in imported(ast.parse(path.read_text(encoding="utf-8")), path):
        first, *rest = name.split(".")
        if first != "trimtab" or not rest:
            continue
        there = PUBLIC.get(rest[0], rest[0])
        if there == here or there.startswith("__"):
            continue
        assert there in FLOORS, f"{path}:{line} imports `{name}`, which has no floor"
        assert FLOORS[there] < FLOORS[here], (
            f"{path}:{line} imports `{name}`: floor {FLOORS[here]} ({here}) may import only lower floors, "
            f"not {FLOORS[there]} ({there})"
        )


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_serving_modules_load_no_torch(path: Path) -> None:
    if is_torch_side(path.relative_to(ROOT).with_suffix("").parts):
        return
    for line, name in imported(at_load(ast.parse(path.read_text(encoding="utf-8"))), path):
        assert name.split(".")[0] not in HEAVY, f"{path}:{line} imports `{name}` while loading"
        if name.startswith("trimtab."):
            assert not is_torch_side(name.split(".")[1:]), f"{path}:{line} loads the torch side: `{name}`"


def is_torch_side(parts: Sequence[str]) -> bool:
    """Whether the dotted path below `trimtab` leads to a module that imports torch."""
    folder, module = (*parts, "__init__")[:2]
    return (
        folder == "train"
        or (folder == "kernels" and module not in SERVING_KERNELS)
        or (folder, module) == ("engine", "torch_runner")
    )


def test_the_public_names_are_the_lazy_ones() -> None:
    import trimtab

    assert set(trimtab.__all__) == {*PUBLIC, "__version__"}
    for name, folder in PUBLIC.items():
        assert trimtab._HOME[name].startswith(f"trimtab.{folder}.")
