"""Finds the benchmarks, and runs one by name.

A benchmark is a file in the repository's `benchmarks/` folder: a docstring that states the claim, and a
function `run(options) -> Report`. The installed package holds none of them; they compare programs, and that
is done in a clone of the repository.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from trimtab.errors import UnknownName, UsageError
from trimtab.machine.report import Report


class BenchOptions(BaseModel):
    """What a user may choose about a benchmark; every benchmark takes the same ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field("smollm2", description="GGUF file or pulled name that everyone runs")
    quick: bool = Field(False, description="one short round against llama.cpp only: does it work at all?")
    repeats: int = Field(5, ge=1, le=99, description="rounds; in each, every contender runs once")
    threads: int | None = Field(None, ge=1, le=1024, description="of everyone; default: all processors")
    only: str = Field("", description="peers to compare with, by comma; default: all that are ready")
    text: Path | None = Field(None, description="text for prompts and perplexity; default: the bundled one")
    trace: Path | None = Field(
        None, description="arrivals for `serve`: CSV of time, prompt and output tokens; default: built-in"
    )
    out: Path | None = Field(None, description="folder of the reports; default: benchmarks/reports")
    patience_seconds: float = Field(30, ge=0, description="longest wait for a quiet machine before a round")
    json_only: bool = Field(False, description="print the result's JSON line and no table")

    @property
    def rounds(self) -> int:
        return 1 if self.quick else self.repeats

    @property
    def wanted(self) -> frozenset[str]:
        """Names in `only`; empty means all."""
        return frozenset(filter(None, (name.strip() for name in self.only.split(","))))


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark that has not been loaded yet."""

    name: str
    path: Path
    claim: str


def folder() -> Path:
    """The repository's `benchmarks/`: beside the sources, in the current folder, or `TRIMTAB_BENCHMARKS`.

    Raises
    ------
    UsageError : there is none, as in a plain install
    """
    set_by_user = os.environ.get("TRIMTAB_BENCHMARKS")
    usual = [Path(__file__).parents[3] / "benchmarks", Path("benchmarks")]
    for place in [Path(set_by_user)] if set_by_user else usual:
        if (place / "peers").is_dir():
            return place.resolve()
    raise UsageError("no benchmarks here", "run this in a clone of the repository, or set TRIMTAB_BENCHMARKS")


def discover(where: Path | None = None) -> dict[str, Benchmark]:
    """Every benchmark by name, in alphabetical order; the files are read and not executed."""
    found: dict[str, Benchmark] = {}
    for path in sorted((where or folder()).glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        claim = (ast.get_docstring(tree) or "").partition("\n\n")[0].replace("\n", " ")
        found[path.stem] = Benchmark(path.stem, path, claim)
    return found


def run(name: str, options: BenchOptions, where: Path | None = None) -> Report:
    """Run one benchmark and save its report.

    Raises
    ------
    UnknownName : no benchmark is called that
    """
    known = discover(where)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(known)}"
        raise UnknownName(f"no benchmark `{name}`", hint, "name")
    base = known[name].path.parent
    with _importable(base):
        report: Report = _load(known[name]).run(options)
    report.save(options.out or base / "reports")
    return report


def summary(report: Report) -> dict[str, Any]:
    """The few figures of a report that a person asks for first."""
    keys = ("ratio", "unit", "limit_fraction", "quality", "samples", "targets")
    return {"name": report.name} | {key: report.result.get(key) for key in keys}


def render(report: Report) -> Iterator[str]:
    """The report as lines for a person; the last one is `summary` as JSON."""
    yield f"{report.name}: {report.claim}"
    rows = report.result.get("table", [])
    if rows:
        columns = list(dict.fromkeys(key for row in rows for key in row))
        cells = [columns, *([_cell(row.get(column)) for column in columns] for row in rows)]
        widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
        for line in cells:
            padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            yield "  " + "  ".join(padded).rstrip()
    for name, reason in report.result.get("absent", {}).items():
        yield f"  {name}: did not run: {reason}"
    for target in report.result.get("targets", []):
        verdict = "met   " if target["met"] else "MISSED"
        yield f"  {verdict} {target['what']}: {_cell(target['value'])} ({target['wanted']})"
    yield json.dumps(summary(report), ensure_ascii=False)


def target(
    what: str, value: float, *, least: float | None = None, most: float | None = None
) -> dict[str, Any]:
    """One promise of a benchmark, and whether it was kept."""
    met = (least is None or value >= least) and (most is None or value <= most)
    wanted = f"at least {least:g}" if least is not None else f"at most {most:g}"
    return {"what": what, "value": value, "wanted": wanted, "met": met}


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, Mapping):
        return " ".join(f"{key}={_cell(each)}" for key, each in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@contextmanager
def _importable(base: Path) -> Iterator[None]:
    """Benchmarks share what is in `peers/`; they see it only while one of them runs."""
    sys.path.insert(0, str(base))
    try:
        yield
    finally:
        sys.path.remove(str(base))


def _load(benchmark: Benchmark) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"trimtab_benchmark_{benchmark.name}", benchmark.path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses of the module look themselves up here
    spec.loader.exec_module(module)
    return module
