"""Print the largest files and functions of the project: where ideas pile up."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHOWN = 12


def functions(path: Path) -> list[tuple[int, str]]:
    """(lines, "file:function") of every function in a Python file, its docstring counted."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            found.append((node.end_lineno - node.lineno + 1, f"{path.relative_to(ROOT)}:{node.name}"))
    return found


def main() -> None:
    python = [p for folder in ("src", "tests", "benchmarks") for p in sorted((ROOT / folder).rglob("*.py"))]
    native = [p for p in sorted((ROOT / "native").rglob("*")) if p.suffix in {".h", ".cpp"}]
    files = [(p.read_text(encoding="utf-8").count("\n"), str(p.relative_to(ROOT))) for p in python + native]
    for title, rows in (("files", files), ("functions", [row for p in python for row in functions(p)])):
        print(f"largest {title} (lines), of {len(rows)}")
        for lines, name in sorted(rows, reverse=True)[:SHOWN]:
            print(f"  {lines:5}  {name}")


if __name__ == "__main__":
    main()
