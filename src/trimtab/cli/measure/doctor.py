"""`trimtab measure doctor`: what holds a dissected run back, and what to change."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trimtab.cli.text import Verb, print_json

app = typer.Typer(add_completion=False, rich_markup_mode=None)

EXAMPLES = """\
trimtab measure dissect serve && trimtab measure doctor   the run that was dissected last
trimtab measure doctor d.json                             a dissection that was kept with --out
trimtab measure doctor --json | jq '.[0].change'          for programs
"""


@app.command(cls=Verb, epilog=EXAMPLES)
def doctor(
    dissection: Annotated[
        Path | None,
        typer.Argument(metavar="DISSECTION", help="file of `measure dissect --out`; default: the last"),
    ] = None,
    most: Annotated[int, typer.Option(metavar="N", min=1, help="how many to name")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="findings as one JSON array")] = False,
) -> None:
    """Name the worst bottlenecks of a dissected run: what each costs, the least it could, what to change.

    Gains are estimates from the dissection's own figures; those of different findings overlap.
    """
    from trimtab.machine.dissect import doctor as rules

    found = rules.examine(_read(dissection), most)
    if as_json:
        print_json([each.to_dict() for each in found])
        return
    if not found:
        print("nothing stands out: no rule finds a loss that a change would give back")
    for number, each in enumerate(found, 1):
        bound = f", at least {each.bound_s:.3g} s" if each.bound_s else ""
        print(f"{number}. {each.what}: up to {each.gain:.0%} of the run")
        print(f"   {each.evidence} ({each.seconds:.3g} s{bound})")
        print(f"   {each.change}")


def _read(path: Path | None) -> dict[str, object]:
    import json

    from trimtab.errors import BadFile
    from trimtab.machine.profile import Profile

    if path is None:
        return dict(Profile.load().need("dissect", allow_noisy=True))
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it is no object")
        return found
    except (OSError, ValueError, RecursionError) as error:
        raise BadFile(path, f"no readable dissection: {error}") from error
