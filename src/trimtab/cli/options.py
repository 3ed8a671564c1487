"""Options out of settings: one typed definition gives flags, environment variables, a file's keys and help.

A field `kv_type` becomes `--kv-type` and `TRIMTAB_KV_TYPE`; `memory_bytes` becomes `--memory`, because its
value carries the unit. A flag beats the environment, and that a configuration file. Knows pydantic fields and
typer options, and no particular setting.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import typer
from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from trimtab.errors import UsageError
from trimtab.server.settings import fields_of, group_of, key_of

Settings = TypeVar("Settings", bound=BaseModel)


def flag_of(field: str) -> str:
    """`--memory` for `memory_bytes`."""
    return "--" + key_of(field).replace("_", "-")


def environment_of(field: str) -> str:
    """`TRIMTAB_MEMORY` for `memory_bytes`."""
    return "TRIMTAB_" + key_of(field).upper()


def takes(
    kind: type[Settings],
    *,
    leave: Iterable[str] = (),
    argument: str | None = None,
    complete: Callable[[str], list[str]] | None = None,
    file: bool = False,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb the options of `kind`; its function gets them as first argument, checked.

    Parameters
    ----------
    leave : fields without an option
    argument : the field that is not an option but the verb's argument
    complete : names that the shell may offer for that argument
    file : values may also stand in a configuration file; adds --config and --print-config
    """
    fields = {name: field for name, field in fields_of(kind).items() if name not in set(leave)}

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(verb, eval_str=True).parameters.values())[1:]
        own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
        parameters = [
            _parameter(name, field, group_of(kind, name), argument=name == argument, complete=complete)
            for name, field in fields.items()
        ]
        more = _file_parameters() if file else []

        @functools.wraps(verb)
        def wrapper(**values: Any) -> None:
            given = {name: values.pop(name) for name in fields}
            if not file:
                verb(checked(kind, given), **values)
                return
            context, config = values.pop("context_of_options"), values.pop("config")
            printing = values.pop("print_config")
            settings, sources = _joined(kind, given, context, config)
            if printing:
                from trimtab.server.config_file import write_config

                print(write_config(settings, sources), end="")
                return
            verb(settings, **values)

        signature = inspect.Signature([*parameters, *more, *own])
        wrapper.__signature__ = signature  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        return wrapper

    return decorate


def _joined(
    kind: type[Settings], given: dict[str, Any], context: typer.Context, config: Path | None
) -> tuple[Settings, dict[str, str]]:
    """Settings out of command line, environment and file; and where each that is no default is from."""
    sources: dict[str, str] = {}
    for name in given:
        # The class that says it differs between versions of typer; its member's names do not.
        said = getattr(context.get_parameter_source(name), "name", "")
        if said == "COMMANDLINE":
            sources[name] = "command line"
        elif said == "ENVIRONMENT":
            sources[name] = environment_of(name)
    values = {name: given[name] for name in sources}
    if config is not None:
        from trimtab.server.config_file import read_config

        for name, value in read_config(config, kind).items():
            if name not in sources:
                sources[name] = str(config)
                values[name] = value
    return checked(kind, values, {name: source for name, source in sources.items() if "/" in source}), sources


def _file_parameters() -> list[inspect.Parameter]:
    """What a verb with a configuration file has besides: the file, a look at the result, typer's context."""
    panel: dict[str, Any] = {"rich_help_panel": "Configuration"}
    config = typer.Option(
        "--config", metavar="PATH", envvar="TRIMTAB_CONFIG", show_envvar=False,
        help="a TOML file of settings, `kv_type = \"int8\"` for --kv-type int8", **panel,
    )  # fmt: skip
    printing = typer.Option(
        "--print-config",
        help="print all settings as such a file, with where each is from, and leave",
        **panel,
    )
    only, make = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter
    return [
        make("config", only, default=None, annotation=Annotated[Path | None, config]),
        make("print_config", only, default=False, annotation=Annotated[bool, printing]),
        make("context_of_options", only, annotation=typer.Context),
    ]


def checked(kind: type[Settings], values: dict[str, Any], files: Mapping[str, str] | None = None) -> Settings:
    """The settings of these values.

    Parameters
    ----------
    files : of values that are from a file, which

    Raises
    ------
    UsageError : a value is not allowed; names its option, or its file and key
    """
    try:
        return kind(**{name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        reason = str(first["msg"]).removeprefix("Value error, ").removeprefix("Input ")
        place = f"{files[name]}: {key_of(name)}" if files and name in files else flag_of(name)
        secret = "SecretStr" in str(kind.model_fields[name].annotation)
        value = "" if secret else f" {first['input']}"
        raise UsageError(f"{place}{value}: it {_lowered(reason)}", param=name) from error


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:]


def _parameter(
    name: str,
    field: FieldInfo,
    group: str,
    *,
    argument: bool,
    complete: Callable[[str], list[str]] | None,
) -> inspect.Parameter:
    default = None if field.default is PydanticUndefined else field.default
    annotation: Any = _plain(field.annotation)
    shown: bool | str = default not in (None, "", (), False)
    if name.endswith("_bytes"):
        # The default is only shown: to read sizes costs an import that the start of a server can do without.
        annotation = str
        shown, default = f"{default >> 20}MiB" if isinstance(default, int) else False, None
    elif annotation is SecretStr:
        annotation = str
    elif get_origin(annotation) is tuple:
        annotation, default = list[get_args(annotation)[0]], None  # type: ignore[misc]
    common: dict[str, Any] = {
        "help": field.description,
        "envvar": environment_of(name),
        "show_default": shown,
        "show_envvar": False,
    }
    info: Any
    if argument:
        info = typer.Argument(metavar=name.upper(), autocompletion=complete, **common)
    else:
        flag, metavar = flag_of(name), _metavar(name, annotation)
        if annotation is bool:
            flag, metavar = f"{flag}/--no-{flag[2:]}", None
        info = typer.Option(flag, metavar=metavar, rich_help_panel=group, **common)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[annotation | None, info]
    )


def _plain(annotation: Any) -> Any:
    """The type typer needs to know: without None, constraints and validators."""
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
    if get_origin(annotation) in (Literal, tuple) or not kinds:
        return annotation
    return _plain(kinds[0])


def _metavar(name: str, annotation: Any) -> str | None:
    if name.endswith("_bytes"):
        return "SIZE"
    if get_origin(annotation) is Literal:
        return "|".join(map(str, get_args(annotation)))
    return {int: "N", float: "X", Path: "PATH"}.get(annotation, name.rpartition("_")[2].upper())
