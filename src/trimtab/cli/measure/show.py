"""`trimtab measure show`: what is known of this machine, in the terminal, as a page, or as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trimtab.cli.text import Verb, note, print_json

app = typer.Typer(add_completion=False, rich_markup_mode=None)

EXAMPLES = """\
trimtab measure show                      summary, roofline, latency ladder, disk curve
trimtab measure show --open               the same as a page in the browser
trimtab measure show --html machine.html  the page as one file, to keep or to send
trimtab measure show --json | jq '.sections.peak.data.rows'
"""


@app.command(cls=Verb, epilog=EXAMPLES)
def show(
    profile: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="a profile, also another machine's; default: this machine's"),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write a page with charts; one file, no network")
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="show that page in the browser")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="the whole profile, as one JSON value")] = False,
) -> None:
    """Show what was measured of this machine. Old and noisy sections are shown too, and named as that."""
    from trimtab.machine.profile import SCHEMA, Profile

    found = Profile.load(profile)
    if as_json:
        from dataclasses import asdict

        print_json({"schema": SCHEMA, **asdict(found)})
        return
    if html is not None or open_page:
        _page(found, html, open_page)
        return
    from trimtab.cli.measure.terminal import draw

    draw(found)


def _page(found: object, place: Path | None, open_it: bool) -> None:
    import os
    import tempfile

    from trimtab.cli.measure.page import page
    from trimtab.errors import UsageError
    from trimtab.machine.profile import Profile

    assert isinstance(found, Profile)
    text = page(found)
    if place is None:
        handle, name = tempfile.mkstemp(prefix="trimtab-machine.", suffix=".html")
        os.close(handle)
        place = Path(name)
    try:
        temporary = place.with_name(f".{place.name}.new")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, place)
    except OSError as error:
        raise UsageError(
            f"--html {place}: {error.strerror}", "name a file in a folder that exists", "html"
        ) from error
    note(f"written to {place}")
    if open_it:
        import webbrowser

        if not webbrowser.open(place.resolve().as_uri()):
            note("no browser could be started; open the file yourself")
