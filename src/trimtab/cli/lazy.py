"""A group of commands whose modules are imported when they are used.

The group knows each command's name and one line about it, so its help shows at once. A command `x` lives in
the module `x` of the group's package, as `app`; a name of two words in a module with an underscore.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

from trimtab.cli.text import write_section
from trimtab.errors import UnknownName


class LazyGroup(TyperGroup):
    """A subclass says which commands there are, with a line for the help, and in which package."""

    table: ClassVar[Mapping[str, str]] = {}
    package: ClassVar[str] = ""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.table)

    def get_command(self, ctx: Any, cmd_name: str) -> TyperCommand | TyperGroup | None:
        if cmd_name not in self.table:
            return None
        module = importlib.import_module(f"{self.package}.{cmd_name.replace('-', '_')}")
        command = typer.main.get_command(module.app)
        assert isinstance(command, TyperCommand | TyperGroup)
        command.name = cmd_name
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if name not in self.table and not name.startswith("-"):
            near = difflib.get_close_matches(name, self.table, n=1)
            path = ctx.command_path
            hint = f"did you mean `{path} {near[0]}`?" if near else f"there is {', '.join(self.table)}"
            raise UnknownName(f"no command `{name}`", hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        if self.table:
            with formatter.section("Commands"):
                formatter.write_dl(list(self.table.items()))

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        if self.epilog:
            write_section(formatter, "Examples", self.epilog)
