"""Small parts of help pages and tables, without any heavy import."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from typer.core import TyperCommand, TyperGroup


class Verb(TyperCommand):
    """A verb whose help has its options in groups and ends with its epilog as it was written: examples."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if (record := param.get_help_record(ctx)) is not None:
                kind = "Arguments" if param.param_type_name == "argument" else "Options"
                groups.setdefault(getattr(param, "rich_help_panel", None) or kind, []).append(record)
        # What belongs to no group, such as --help, stands last.
        for group in sorted(groups, key=lambda name: (name == "Options", name != "Arguments")):
            with formatter.section(group):
                formatter.write_dl(groups[group])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        if self.epilog:
            write_section(formatter, "Examples", self.epilog)
        flags = {p.envvar: p.opts[0] for p in self.params if p.envvar and p.opts[0].startswith("-")}
        for variable, flag in list(flags.items())[: len(flags) > 1]:
            text = f"{variable}=… stands for {flag} …, and so on for every option above that has a value"
            write_section(formatter, "Environment", text)


class Group(TyperGroup):
    """A verb that has verbs of its own; its help ends as a verb's does."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        if self.epilog:
            write_section(formatter, "Examples", self.epilog)


def write_section(formatter: Any, title: str, text: str) -> None:
    """A part of a help page whose lines are shown as they are."""
    with formatter.section(title):
        for line in text.strip("\n").splitlines():
            formatter.write(f"  {line}\n")


def print_json(value: Any) -> None:
    """One JSON value on stdout, for programs."""
    print(json.dumps(value, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout: drawn for a person, tab-separated lines for a pipe."""
    if not sys.stdout.isatty():
        for row in [columns, *rows]:
            print("\t".join(row))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console().print(table, markup=False)


def note(text: str) -> None:
    """A remark to the user on stderr, dimmed in a terminal."""
    dim = bool(text) and decorated(sys.stderr)
    print(f"\x1b[2m{text}\x1b[0m" if dim else text, file=sys.stderr, flush=True)


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Show what is being waited for, in a terminal only, and wipe it out afterwards."""
    shown = decorated(sys.stderr)
    if shown:
        print(f"\x1b[2m{text}\x1b[0m", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def decorated(stream: TextIO) -> bool:
    """Colour and cursor movements are welcome: a terminal, and nobody said NO_COLOR."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def size(count: int) -> str:
    """Bytes for people: `98.1 MiB`."""
    value, units = float(count), ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{count} bytes" if units[0] == "bytes" else f"{value:.1f} {units[0]}"
