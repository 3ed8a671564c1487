"""`trimtab models`: what lies in the cache, whether it is whole, and how to get rid of it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from trimtab.cli.text import Verb, note, print_json, print_table, size

app = typer.Typer(add_completion=False, rich_markup_mode=None)

EXAMPLES = """\
trimtab models                    what is in the cache
trimtab models --all              and what `trimtab pull` could fetch
trimtab models --verify           read every cached file and compare its hash
trimtab models --remove smollm2   delete one
"""


def complete_model(incomplete: str) -> list[str]:
    """Names for the shell to offer where a verb takes a MODEL."""
    from trimtab.formats.cache import KNOWN

    return [name for name in KNOWN if name.startswith(incomplete)]


@app.command(cls=Verb, epilog=EXAMPLES)
def models(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME...", help="only these", autocompletion=complete_model),
    ] = None,
    all_known: Annotated[bool, typer.Option("--all", "-a", help="also models that are not here yet")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="compare files with their published hash")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="delete the named models")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="a JSON array, with sizes in bytes")] = False,
) -> None:
    """List, check and remove the models in the cache."""
    from trimtab.errors import UsageError
    from trimtab.formats import cache

    wanted = [(found.name if (found := cache.known(name)) else name) for name in names or []]
    if remove:
        if not wanted:
            raise UsageError("--remove needs a name", "`trimtab models` lists what is there", "names")
        freed = {name: cache.remove(name) for name in wanted}
        if as_json:
            print_json([{"name": name, "freed_bytes": count} for name, count in freed.items()])
        for name, count in freed.items():
            note(f"removed {name}, {size(count)} are free again")
        return
    here = {model.name: model for model in cache.installed()}
    if verify:
        for name in wanted or here:
            _verify(name)
    listed = [name for name in cache.KNOWN if name in here or all_known or name in wanted]
    rows = [_row(cache.KNOWN[name], here.get(name)) for name in listed if not wanted or name in wanted]
    if as_json:
        print_json(rows)
    elif rows:
        cells = [
            [row["name"], row["state"], size(row["size_bytes"]), row["path"] or row["summary"]]
            for row in rows
        ]
        print_table(["MODEL", "STATE", "SIZE", "WHERE"], cells)
    else:
        note(f"the cache is empty; `trimtab pull {cache.DEFAULT_MODEL}` fetches the default model")


def _row(model: Any, installed: Any) -> dict[str, Any]:
    return {
        "name": model.name,
        "state": installed.state if installed else "not here",
        "size_bytes": installed.size_bytes if installed else model.size_bytes,
        "path": str(installed.path) if installed else None,
        "summary": model.summary,
        "license": model.license,
    }


def _verify(name: str) -> None:
    from trimtab.cli.progress import Bar
    from trimtab.formats import cache

    with Bar(name) as bar:
        cache.verify(name, bar)
    note(f"{name}: every byte is as published")
