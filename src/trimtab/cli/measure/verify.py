"""`trimtab measure verify`: is this still the machine that the profile describes?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trimtab.cli.text import Verb, note, print_json, print_table

app = typer.Typer(add_completion=False, rich_markup_mode=None)

EXAMPLES = """\
trimtab measure verify                      ten anchors again, in about five seconds
trimtab measure verify --json | jq .changed
trimtab measure verify || trimtab measure   measure anew what has changed
"""


@app.command(cls=Verb, epilog=EXAMPLES)
def verify(
    profile: Annotated[
        Path | None, typer.Option(metavar="FILE", help="the profile's file; default: trimtab's cache")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="the anchors, as one JSON value")] = False,
) -> None:
    """Measure ten anchors of the profile again, and say which have changed; exit 1 when one has.

    Clock, arithmetic, loads from each level, atomic additions and system calls. A busy machine changes them
    too, so a change is first a reason to look again.
    """
    from dataclasses import asdict

    from trimtab.machine.micro.verify import verify as measure
    from trimtab.machine.profile import Profile

    anchors = measure(Profile.load(profile), say=note)
    changed = [anchor.name for anchor in anchors if anchor.changed]
    if as_json:
        rows = [asdict(anchor) | {"change": anchor.change, "changed": anchor.changed} for anchor in anchors]
        print_json({"changed": changed, "anchors": rows})
    else:
        print_table(
            ["ANCHOR", "THEN", "NOW", "CHANGE", ""],
            [
                [
                    anchor.name,
                    _figure(anchor.before, anchor.unit),
                    _figure(anchor.now, anchor.unit),
                    f"{anchor.change:+.1%}",
                    "changed" if anchor.changed else "",
                ]
                for anchor in anchors
            ],
        )
        note(
            f"changed: {', '.join(changed)}; measure again: `trimtab measure`"
            if changed
            else "this is the machine of the profile"
        )
    if changed:
        raise typer.Exit(1)


def _figure(value: float, unit: str) -> str:
    return f"{value / 1e9:.3f} GHz" if unit == "Hz" else f"{value:.4g} {unit}"
