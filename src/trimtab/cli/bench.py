"""`trimtab bench`: runs a benchmark of the repository and prints its report."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from trimtab.cli.options import takes
from trimtab.cli.text import Verb, print_json, print_table
from trimtab.machine.bench import BenchOptions

app = typer.Typer(add_completion=False, rich_markup_mode=None)

EXAMPLES = """\
trimtab bench --list               what there is to measure, and the claim behind it
trimtab bench --peers              which competitors are installed
trimtab bench decode --quick       does it work at all?
trimtab bench decode --json        the whole Report
"""


@app.command(cls=Verb, epilog=EXAMPLES)
@takes(BenchOptions, leave=["json_only"])
def bench(
    options: BenchOptions,
    name: Annotated[str | None, typer.Argument(help="benchmark to run; see --list", metavar="NAME")] = None,
    listing: Annotated[bool, typer.Option("--list", help="name every benchmark and its claim")] = False,
    peers: Annotated[bool, typer.Option("--peers", help="name every competitor and what it lacks")] = False,
    install: Annotated[
        str | None, typer.Option(metavar="PEER", help="make a competitor's own environment")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="the whole Report, or the list, as JSON")] = False,
) -> None:
    """Compare trimtab with its peers: same file, same prompts, same threads, in alternating runs.

    The report is saved and says which fraction of this machine's limit was reached.
    """
    from trimtab.errors import UsageError
    from trimtab.machine import bench as benches
    from trimtab.machine import peers as competitors

    if install is not None:
        competitors.install(install, lambda line: print(line, file=sys.stderr))
    elif peers:
        lacking = {peer: competitors.missing(peer) for peer in competitors.PEERS}
        if as_json:
            print_json([{"peer": peer, "missing": lacks} for peer, lacks in lacking.items()])
        else:
            states = {peer: ", ".join(lacks) for peer, lacks in lacking.items()}
            print_table(["PEER", "LACKS"], [[peer, lacks or "nothing"] for peer, lacks in states.items()])
    elif listing:
        found = benches.discover().values()
        if as_json:
            print_json([{"name": one.name, "claim": one.claim} for one in found])
        else:
            print_table(["BENCHMARK", "CLAIM"], [[one.name, one.claim] for one in found])
    elif name is None:
        raise UsageError("no benchmark named", "`trimtab bench --list` shows them", "name")
    else:
        # The table is talk while it is for people; a Report in JSON is data.
        report = benches.run(name, options.model_copy(update={"json_only": as_json}))
        if as_json:
            print(report.to_json())
        else:
            print("\n".join(benches.render(report)))
