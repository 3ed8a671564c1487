"""Write the measured figures: the marked block of README.md and the page docs/figures.md, from the Reports.

No figure is typed by hand. With --check, say what is not current and change nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimtab.machine.report import Report

ROOT = Path(__file__).resolve().parent.parent
BEGIN = "<!-- figures: written by docs/figures.py -->\n"
END = "<!-- /figures -->\n"
NOTHING = "No Report has been recorded yet.\n"


def load(folder: Path) -> list[Report]:
    """Every Report of a folder, by name."""
    return [Report.load(path) for path in sorted(folder.glob("*.json"))]


def block(reports: list[Report]) -> str:
    """The README's table: a row a Report, the machine and the day below."""
    if not reports:
        return NOTHING
    head = ("benchmark", "result", "of this machine's limit", "targets met")
    rows = [
        (
            f"[{report.name}](docs/figures.md#{report.name})",
            _result(report),
            shown(report.result.get("limit_fraction"), percent=True),
            _kept(report),
        )
        for report in reports
    ]
    days = sorted({report.date[:10] for report in reports})
    span = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    where = "; ".join(sorted({_machine(report) for report in reports}))
    return f"{table(head, rows)}\n{where}; {span}. [All figures, with spread and peers](docs/figures.md).\n"


def _result(report: Report) -> str:
    """What it found: a ratio, or without one the time of each thing it did."""
    ratio, unit = report.result.get("ratio"), report.result.get("unit")
    rows = report.result.get("table") or []
    if ratio is None and all("wall_seconds" in row for row in rows):
        return "; ".join(f"{row['what']}: {row['wall_seconds']:.0f} s" for row in rows)
    return " ".join(filter(None, (shown(ratio), unit)))


def page(reports: list[Report]) -> str:
    """docs/figures.md: each Report with its claim, its whole table, its targets and how to repeat it."""
    text = "# Figures\n\nWritten from `benchmarks/reports/` by `make docs`; raw samples are in the files.\n"
    if not reports:
        return f"{text}\n{NOTHING}"
    return text + "".join(_section(report) for report in reports)


def charts(reports: list[Report]) -> dict[Path, str]:
    """The files of those Reports that have a chart."""
    sys.path.insert(0, str(Path(__file__).parent))
    from charts import lines

    folder = ROOT / "docs" / "figures"
    return {
        folder / f"{report.name}.svg": lines(report.result["chart"])
        for report in reports
        if report.result.get("chart")
    }


def _section(report: Report) -> str:
    text = f"\n## {report.name}\n\n{report.claim}\n\n"
    if rows := report.result.get("table"):
        columns = tuple(dict.fromkeys(key for row in rows for key in row))
        text += table(columns, [tuple(shown(row.get(column)) for column in columns) for row in rows]) + "\n"
    if chart := report.result.get("chart"):
        text += f"![{chart['y']} against {chart['x']}](figures/{report.name}.svg)\n\n"
    for name, reason in report.result.get("absent", {}).items():
        text += f"- {name} did not run: {reason}\n"
    for target in report.result.get("targets", []):
        verdict = "met" if target["met"] else "**missed**"
        text += f"- {verdict}: {target['what']} {shown(target['value'])} ({target['wanted']})\n"
    if quality := report.result.get("quality"):
        text += f"- quality: {shown(quality)}\n"
    file = f"[{report.name}.json](../benchmarks/reports/{report.name}.json)"
    return text + f"\n`{' '.join(report.command)}`, {_machine(report)}, {report.date[:10]}, {file}\n"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table; bars inside cells are escaped, line ends become spaces."""
    lines = [head, ("---",) * len(head), *rows]
    cleaned = ([" ".join(cell.replace("|", "\\|").split()) for cell in line] for line in lines)
    return "".join("| " + " | ".join(cells) + " |\n" for cells in cleaned)


def shown(value: Any, percent: bool = False) -> str:
    """A value for a person: three digits, dashes for nothing."""
    if value is None:
        return "–"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {shown(each)}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(shown(each) for each in value)
    if percent:
        return f"{value:.0%}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def _kept(report: Report) -> str:
    targets = report.result.get("targets", [])
    return f"{sum(target['met'] for target in targets)} of {len(targets)}" if targets else "–"


def _machine(report: Report) -> str:
    """The processor and how many of it the run could use; `trimtab.machine.probe.Machine` has the fields."""
    return f"{report.machine['processor']}, {report.machine['usable']} in use"


def main() -> int:
    reports = load(ROOT / "benchmarks" / "reports")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        print(f"README.md has lost its marks `{BEGIN.strip()}` and `{END.strip()}`", file=sys.stderr)
        return 1
    wanted = {
        ROOT / "README.md": before + BEGIN + block(reports) + END + after,
        ROOT / "docs" / "figures.md": page(reports),
        **charts(reports),
    }
    stale = [
        path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    if "--check" in sys.argv:
        if stale:
            print(f"not current: {', '.join(path.name for path in stale)}; run `make docs`", file=sys.stderr)
        return len(stale)
    for path in stale:
        path.parent.mkdir(exist_ok=True)
        path.write_text(wanted[path], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
