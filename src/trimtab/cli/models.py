"""`trimtab models`: what lies in the cache."""

from __future__ import annotations

import typer

app = typer.Typer(add_completion=False, rich_markup_mode=None)


def complete_model(incomplete: str) -> list[str]:
    return []
