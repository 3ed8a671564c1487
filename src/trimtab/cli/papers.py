"""`trimtab papers`: the papers behind the features, as a table or as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from trimtab.cli.text import Verb, print_json, print_table

app = typer.Typer(add_completion=False, rich_markup_mode=None)

EXAMPLES = """\
trimtab papers                      every paper: state, command, title
trimtab papers --state works        only what works today
trimtab papers --json | jq '.[0]'   all that is known of each
"""


@app.command(cls=Verb, epilog=EXAMPLES)
def papers(
    state: Annotated[
        str | None, typer.Option(metavar="STATE", help="only papers that are planned, partial or works")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="everything known, as one JSON array")] = False,
) -> None:
    """List the papers trimtab is built from, the command each becomes, and how far that has come."""
    from typing import get_args

    from trimtab import papers as known
    from trimtab.errors import UsageError

    if state is not None and state not in get_args(known.State):
        allowed = ", ".join(get_args(known.State))
        raise UsageError(f"--state {state}: no such state", f"there is {allowed}", "state")
    chosen = [paper for paper in known.papers() if state in (None, paper.state)]
    if as_json:
        print_json([asdict(paper) for paper in chosen])
    else:
        rows = [[paper.key, paper.state, paper.command, paper.title] for paper in chosen]
        print_table(["PAPER", "STATE", "COMMAND", "TITLE"], rows)
