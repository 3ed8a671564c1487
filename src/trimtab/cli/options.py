"""Options out of settings: one typed definition gives flags, environment variables and help.

A field `kv_type` becomes `--kv-type` and `TRIMTAB_KV_TYPE`; `memory_bytes` becomes `--memory`, because its
value carries the unit. Knows pydantic fields and typer options, and no particular setting.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import typer
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from trimtab.errors import UsageError

Settings = TypeVar("Settings", bound=BaseModel)


def flag_of(field: str) -> str:
    """`--memory` for `memory_bytes`."""
    return "--" + field.removesuffix("_bytes").replace("_", "-")


def environment_of(field: str) -> str:
    """`TRIMTAB_MEMORY` for `memory_bytes`."""
    return "TRIMTAB_" + field.removesuffix("_bytes").upper()


def takes(
    kind: type[Settings],
    *,
    leave: Iterable[str] = (),
    argument: str | None = None,
    complete: Callable[[str], list[str]] | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb the options of `kind`; its function gets them as first argument, checked.

    Parameters
    ----------
    leave : fields without an option
    argument : the field that is not an option but the verb's argument
    complete : names that the shell may offer for that argument
    """
    fields = {name: field for name, field in kind.model_fields.items() if name not in set(leave)}

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(verb, eval_str=True).parameters.values())[1:]
        own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
        parameters = [
            _parameter(name, field, argument=name == argument, complete=complete)
            for name, field in fields.items()
        ]

        @functools.wraps(verb)
        def wrapper(**values: Any) -> None:
            given = {name: values.pop(name) for name in fields}
            verb(checked(kind, given), **values)

        signature = inspect.Signature([*parameters, *own])
        wrapper.__signature__ = signature  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        return wrapper

    return decorate


def checked(kind: type[Settings], values: dict[str, Any]) -> Settings:
    """The settings of these values.

    Raises
    ------
    UsageError : a value is not allowed; names its option
    """
    try:
        return kind(**{name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        reason = str(first["msg"]).removeprefix("Value error, ").removeprefix("Input ")
        raise UsageError(f"{flag_of(name)} {first['input']}: it {_lowered(reason)}", param=name) from error


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:]


def _parameter(
    name: str, field: FieldInfo, *, argument: bool, complete: Callable[[str], list[str]] | None
) -> inspect.Parameter:
    default = None if field.default is PydanticUndefined else field.default
    annotation: Any = _plain(field.annotation)
    shown: bool | str = default not in (None, "")
    if name.endswith("_bytes"):
        # The default is only shown: to read sizes costs an import that the start of a server can do without.
        annotation = str
        shown, default = f"{default >> 20}MiB" if isinstance(default, int) else False, None
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
        info = typer.Option(flag_of(name), metavar=_metavar(name, annotation), **common)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[annotation | None, info]
    )


def _plain(annotation: Any) -> Any:
    """The type typer needs to know: without None, constraints and validators."""
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
    if get_origin(annotation) is Literal or not kinds:
        return annotation
    if get_origin(annotation) is Annotated:
        return _plain(kinds[0])
    return _plain(kinds[0])


def _metavar(name: str, annotation: Any) -> str | None:
    if name.endswith("_bytes"):
        return "SIZE"
    if get_origin(annotation) is Literal:
        return "|".join(map(str, get_args(annotation)))
    return {int: "N", float: "X"}.get(annotation, name.rpartition("_")[2].upper())
