"""The machine's profile as one HTML file: nothing loaded, nothing run, light or dark as the reader likes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from trimtab.cli.measure import svg
from trimtab.machine import figures
from trimtab.machine.figures import si
from trimtab.machine.profile import Profile
from trimtab.machine.roofline import cache_levels

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
STYLE = Path(__file__).with_name("page.css")


def page(profile: Profile) -> str:
    """The whole page, as text. Every figure is the profile's; what was not measured is left out."""
    from trimtab import __version__

    name = str(profile.machine.get("processor") or "a machine")
    body = [
        f"<header><h1>{escape(name)}</h1><p>{escape(_headline(profile))}</p></header>",
        *_warnings(profile),
        _roofline(profile),
        *_pair(
            _box(
                "Memory, over the working set",
                svg.lines(
                    figures.bandwidth(profile), svg.bytes_words, _rate, "bytes gone through again and again",
                    "bytes read a second", "Read rate over the working set", cache_levels(profile.machine, 1),
                ),
                "Each step down is a cache that has become too small.",
                figures.bandwidth(profile), _rate,
            ),
            _box(
                "A load that waits for the one before",
                svg.lines(
                    figures.loads(profile), svg.bytes_words, _time, "bytes gone through again and again",
                    "seconds a load", "Latency over the working set", cache_levels(profile.machine, 1),
                ),
                "A chase through a random ring: no prefetcher can help.",
                figures.loads(profile), _time,
            ),
        ),
        _ladder(profile),
        *_pair(*(_disk(profile, op) for op in ("read", "write"))),
        _facts(profile),
        _sections(profile),
        f"<footer>trimtab {escape(__version__)}, page of {datetime.now(UTC):%Y-%m-%d %H:%M} UTC</footer>",
    ]  # fmt: skip
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # Nothing may be fetched or run, whatever a profile's words say.
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{escape(name)}: machine profile</title>"
        f"<style>{STYLE.read_text(encoding='utf-8')}</style></head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body></html>\n"
    )


def _warnings(profile: Profile) -> list[str]:
    told = [f"{state.name} {state.problem}." for state in figures.states(profile) if state.problem]
    return [f'<p class="warn">{escape(text)}</p>' for text in told]


def _headline(profile: Profile) -> str:
    roof, dates = figures.roofline(profile), sorted(state.date[:10] for state in figures.states(profile))
    told = []
    if roof is not None and roof.rates and roof.peaks:
        unit, top = roof.peaks[0]
        told.append(f"{si(top, 'op/s')} of {unit}, {si(roof.rates[-1][1], 'B/s')} from memory")
        told.append(f"{roof.threads} threads")
    if dates:
        told.append(f"measured {dates[0]}" + (f" to {dates[-1]}" if dates[-1] != dates[0] else ""))
    return "; ".join(told) or "nothing measured yet"


def _roofline(profile: Profile) -> str:
    roof = figures.roofline(profile)
    if roof is None or not roof.rates or not roof.peaks:
        return ""
    ridge = roof.peaks[0][1] / roof.rates[-1][1]
    note = (
        f"Below {ridge:.3g} operations for each byte from memory its rate sets the pace, above it the peak. "
        "Points are matrix products of the engine's kernels with 1, 8 and 128 rows, weights in the caches."
    )
    rows = [[mark.name, f"{mark.intensity:.3g}", si(mark.ops_per_s, "op/s")] for mark in roof.marks]
    table = _table(["product", "operations a byte", "operations a second"], rows)
    return (
        f'<section><h2>Roofline, {roof.threads} threads</h2><div class="scroll">'
        f'{svg.roofline(roof, "Roofline")}</div><p class="note">{note}</p>{_more(table)}</section>'
    )


def _ladder(profile: Profile) -> str:
    costs = figures.costs(profile)
    if not costs:
        return ""
    kinds = [kind for kind in ("memory", "system", "device") if any(cost.kind == kind for cost in costs)]
    legend = "".join(f'<span class="{kind}"><i></i>{kind}</span>' for kind in kinds)
    return (
        f'<section><h2>Latency ladder</h2><div class="legend">{legend}</div><div class="scroll">'
        f"{svg.ladder(costs, 'Latency ladder')}</div></section>"
    )


def _disk(profile: Profile, op: str) -> str:
    section = profile.sections.get("disk")
    curves = figures.disk(profile, op)
    note = "Random places of one file, past the page cache, by requests under way at once."
    if section is not None and not section.data.get("direct"):
        note = f"Not direct: {section.data.get('why_not_direct')}. The page cache is part of these figures."
    chart = svg.lines(curves, svg.bytes_words, _rate, "bytes a request", "bytes a second", f"Disk {op}s")
    return _box(f"Disk, {op}s", chart, note, curves, _rate)


def _facts(profile: Profile) -> str:
    lists = []
    for title, lines in figures.facts(profile):
        pairs = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in lines)
        lists.append(f"<section><h2>{escape(title)}</h2><dl>{pairs}</dl></section>")
    return f'<div class="three">{"".join(lists)}</div>' if lists else ""


def _sections(profile: Profile) -> str:
    found = figures.states(profile)
    if not found:
        return ""
    rows = "".join(
        f"<tr><td>{escape(s.name)}</td><td>{escape(figures.when(s.date))}</td><td>{s.seconds:.1f} s</td>"
        f"<td{' class=wrong' if s.problem else ''}>{escape(s.problem or 'can be used')}</td></tr>"
        for s in found
    )
    head = "<tr><th>Section</th><th>Measured</th><th>Took</th><th>State</th></tr>"
    return f'<section><h2>Sections</h2><div class="scroll"><table>{head}{rows}</table></div></section>'


def _box(title: str, chart: str, note: str, curves: Sequence[figures.Curve], words: svg.Words) -> str:
    """A chart with its note and, folded away, its numbers; nothing without a chart."""
    if not chart:
        return ""
    rows = [[c.name, svg.bytes_words(x), words(y)] for c in curves for x, y in c.points]
    return (
        f'<section><h2>{escape(title)}</h2><div class="scroll">{chart}</div>'
        f'<p class="note">{escape(note)}</p>{_more(_table(["curve", "bytes", "value"], rows))}</section>'
    )


def _pair(*boxes: str) -> list[str]:
    there = [box for box in boxes if box]
    return [f'<div class="two">{"".join(there)}</div>'] if there else []


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(word)}</th>" for word in head)
    lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{lines}</table>"


def _more(table: str) -> str:
    return f'<details><summary>The numbers</summary><div class="scroll">{table}</div></details>'


def _rate(value: float) -> str:
    return si(value, "B/s")


def _time(value: float) -> str:
    return si(value, "s")
