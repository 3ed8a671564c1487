"""`trimtab keys`: who may use a server, and how much of it."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trimtab.cli.text import Group, Verb, note, print_json, print_table
from trimtab.errors import UsageError

if TYPE_CHECKING:
    from trimtab.server.access.keyfile import KeyRecord, TenantRecord

EXAMPLES = """\
trimtab keys create alice                               prints the key, this once
trimtab keys create ci --requests-per-minute 60 --expires 90d
trimtab keys create ops --admin                         may read /metrics and everybody's requests
trimtab keys list
trimtab keys set alice --tokens-per-minute 50000 --max-concurrent 4
trimtab keys rotate alice --keep 1h                     a new key; the old one ends in an hour
trimtab keys revoke alice                               at once, without a restart
"""

app = typer.Typer(
    cls=Group, add_completion=False, rich_markup_mode=None, no_args_is_help=True,
    help="Make, list, change and revoke API keys. A running server takes changes over within a second.",
    epilog=EXAMPLES,
)  # fmt: skip

FileOption = Annotated[
    Path | None,
    typer.Option(
        "--file", metavar="PATH", envvar="TRIMTAB_KEYS_FILE", show_envvar=False,
        help="the server's --keys-file; default: keys.json in the user's state folder",
    ),
]  # fmt: skip
JsonOption = Annotated[bool, typer.Option("--json", help="one JSON value on stdout")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="letters, digits and . _ @ -")]
RequestsOption = Annotated[
    int | None, typer.Option("--requests-per-minute", metavar="N", help="0 takes the limit away")
]
TokensOption = Annotated[
    int | None,
    typer.Option("--tokens-per-minute", metavar="N", help="prompts and outputs together; 0: no limit"),
]
ConcurrentOption = Annotated[
    int | None, typer.Option("--max-concurrent", metavar="N", help="requests at a time; 0: no limit")
]
ModelOption = Annotated[
    list[str] | None, typer.Option("--model", metavar="NAME", help="allow only this; repeat; `*` allows all")
]
AdapterOption = Annotated[
    list[str] | None,
    typer.Option("--adapter", metavar="NAME", help="allow only this; repeat; `*` allows all"),
]
WeightOption = Annotated[
    float | None,
    typer.Option("--weight", metavar="X", help="share of a busy server against others' 1"),
]
AdminOption = Annotated[
    bool | None,
    typer.Option("--admin/--no-admin", help="may read /metrics and everybody's requests", show_default=False),
]


@app.command(cls=Verb)
def create(
    name: NameArgument,
    requests_per_minute: RequestsOption = None,
    tokens_per_minute: TokensOption = None,
    max_concurrent: ConcurrentOption = None,
    model: ModelOption = None,
    adapter: AdapterOption = None,
    weight: WeightOption = None,
    admin: AdminOption = None,
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="WHEN", help="90d, 12h, or a date like 2030-01-31")
    ] = None,
    file: FileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key and print it. It is shown this once: only its hash is kept."""
    from trimtab.server.access.keyfile import NAME_PATTERN, KeyFile, TenantRecord, change, new_key, new_salt

    if not re.fullmatch(NAME_PATTERN, name):
        raise UsageError(f"`{name}` cannot be a name", "letters, digits and . _ @ -, at most 64", "name")
    now = int(time.time())
    key, kept = new_key(now, moment(expires, now))
    changes = _changes(requests_per_minute, tokens_per_minute, max_concurrent, model, adapter, weight, admin)
    made = _checked(TenantRecord, {"name": name, "salt": new_salt(), "keys": (kept,)} | changes)

    def edit(content: KeyFile) -> KeyFile:
        if any(tenant.name == name for tenant in content.tenants):
            hint = f"`trimtab keys rotate {name}` makes a new key, `trimtab keys set {name}` changes limits"
            raise UsageError(f"`{name}` has a key already", hint, "name")
        return content.replaced(made)

    path = _path(file)
    change(path, edit)
    _show(key, kept, made, path, as_json)


@app.command(cls=Verb)
def rotate(
    name: NameArgument,
    keep: Annotated[
        str | None,
        typer.Option(
            "--keep", metavar="TIME", help="how long the old keys still work, such as 1h; default: not"
        ),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option("--expires", metavar="WHEN", help="of the new key; default: as the old one's"),
    ] = None,
    file: FileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make another key for the same tenant, with the same limits, and end the old ones."""
    from trimtab.server.access.keyfile import KeyFile, change, new_key

    now = int(time.time())
    until = moment(keep, now)
    key, kept = new_key(now, moment(expires, now))

    def edit(content: KeyFile) -> KeyFile:
        tenant = content.tenant(name)
        new = kept
        if expires is None and tenant.keys:
            last = tenant.keys[-1]
            lifetime = None if last.expires is None else max(60, last.expires - last.created)
            new = kept.model_copy(update={"expires": None if lifetime is None else now + lifetime})
        old = [one for one in tenant.keys if one.expires is None or one.expires > now]
        ending = [
            one.model_copy(update={"expires": until if one.expires is None else min(until, one.expires)})
            for one in old
            if until is not None
        ]
        return content.replaced(tenant.model_copy(update={"keys": (*ending, new)}))

    path = _path(file)
    tenant = change(path, edit).tenant(name)
    _show(key, tenant.keys[-1], tenant, path, as_json)


@app.command("set", cls=Verb)
def set_(
    name: NameArgument,
    requests_per_minute: RequestsOption = None,
    tokens_per_minute: TokensOption = None,
    max_concurrent: ConcurrentOption = None,
    model: ModelOption = None,
    adapter: AdapterOption = None,
    weight: WeightOption = None,
    admin: AdminOption = None,
    file: FileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change what a tenant may take; its keys stay."""
    from trimtab.server.access.keyfile import KeyFile, TenantRecord, change

    changes = _changes(requests_per_minute, tokens_per_minute, max_concurrent, model, adapter, weight, admin)
    if not changes:
        raise UsageError("nothing to change", "`trimtab keys set --help` shows what it takes", "name")

    def edit(content: KeyFile) -> KeyFile:
        return content.replaced(_checked(TenantRecord, content.tenant(name).model_dump() | changes))

    tenant = change(_path(file), edit).tenant(name)
    if as_json:
        print_json(_row(tenant))
    else:
        note(f"{name}: {_limits(tenant)}")


@app.command("list", cls=Verb)
def list_(file: FileOption = None, as_json: JsonOption = False) -> None:
    """List who has a key, and what it allows; no key is shown."""
    from trimtab.server.access.keyfile import read

    path = _path(file)
    content = read(path)
    tenants = content.tenants if content is not None else ()
    if as_json:
        print_json([_row(tenant) for tenant in tenants])
    elif tenants:
        rows = [[t.name, _keys(t), _limits(t), f"{t.weight:g}", "yes" if t.admin else ""] for t in tenants]
        print_table(["NAME", "KEYS", "LIMITS", "WEIGHT", "ADMIN"], rows)
    else:
        note(f"no keys in {path}; `trimtab keys create NAME` makes one")


@app.command(cls=Verb)
def revoke(
    name: NameArgument,
    key: Annotated[
        str | None, typer.Option("--key", metavar="ID", help="only this one of the tenant's keys")
    ] = None,
    file: FileOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a tenant's keys; requests that run already go on."""
    from trimtab.errors import UnknownName
    from trimtab.server.access.keyfile import KeyFile, change

    ended: list[str] = []

    def edit(content: KeyFile) -> KeyFile:
        tenant = content.tenant(name)
        gone = [one.id for one in tenant.keys if key in (None, one.id)]
        if key is not None and not gone:
            raise UnknownName(f"`{name}` has no key `{key}`", "`trimtab keys list` shows them", "key")
        ended.extend(gone)
        if key is None:
            return KeyFile(tenants=tuple(one for one in content.tenants if one.name != name))
        kept = tuple(one for one in tenant.keys if one.id != key)
        return content.replaced(tenant.model_copy(update={"keys": kept}))

    change(_path(file), edit)
    if as_json:
        print_json({"name": name, "revoked": ended})
    else:
        note(f"{name}: {len(ended)} key{'s' * (len(ended) != 1)} revoked")


def moment(text: str | None, now: int) -> int | None:
    """Seconds since 1970 for `90d`, `12h`, `30m` from now, or the end of a day such as 2030-01-31.

    Raises
    ------
    UsageError : it is neither, or past
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,6})\s*([smhdw])", text.strip())
    if found:
        return now + int(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[found[2]]
    import datetime

    try:
        day = datetime.date.fromisoformat(text.strip())
    except ValueError:
        raise UsageError(f"{text!r} is no time", "write it like 90d, 12h or 2030-01-31", "expires") from None
    end = datetime.datetime.combine(day, datetime.time.max, datetime.UTC)
    if end.timestamp() <= now:
        raise UsageError(f"{text} is past", "", "expires")
    return int(end.timestamp())


def _changes(
    requests: int | None,
    tokens: int | None,
    concurrent: int | None,
    models: list[str] | None,
    adapters: list[str] | None,
    weight: float | None,
    admin: bool | None,
) -> dict[str, Any]:
    """The fields that were given; 0 and `*` stand for no limit."""
    given: dict[str, Any] = {}
    for name, value in (
        ("requests_per_minute", requests), ("tokens_per_minute", tokens), ("max_concurrent", concurrent),
    ):  # fmt: skip
        if value is not None:
            given[name] = value or None
    for name, names in (("models", models), ("adapters", adapters)):
        if names:
            given[name] = () if "*" in names else tuple(names)
    given |= {name: value for name, value in (("weight", weight), ("admin", admin)) if value is not None}
    return given


def _checked(kind: type[TenantRecord], values: dict[str, Any]) -> TenantRecord:
    from trimtab.cli.options import checked

    return checked(kind, values)


def _path(file: Path | None) -> Path:
    from trimtab.server.access.keys import default_path

    return file or default_path()


def _show(key: str, kept: KeyRecord, tenant: TenantRecord, path: Path, as_json: bool) -> None:
    if as_json:
        print_json({"key": key, "id": kept.id, **_row(tenant)})
        return
    print(key)
    until = "" if kept.expires is None else f", until {_day(kept.expires)}"
    note(f"the key of {tenant.name}{until}: keep it now, it cannot be shown again; its hash is in {path}")


def _row(tenant: TenantRecord) -> dict[str, Any]:
    row: dict[str, Any] = tenant.model_dump(mode="json", exclude={"salt", "keys"})
    keys = [one.model_dump(mode="json", exclude={"sha256"}) for one in tenant.keys]
    return row | {"keys": keys}


def _limits(tenant: TenantRecord) -> str:
    parts = [
        f"{count} {words}"
        for count, words in (
            (tenant.requests_per_minute, "requests/min"),
            (tenant.tokens_per_minute, "tokens/min"),
            (tenant.max_concurrent, "at a time"),
        )
        if count is not None
    ]
    parts += [f"only {', '.join(names)}" for names in (tenant.models, tenant.adapters) if names]
    return "; ".join(parts) or "none"


def _keys(tenant: TenantRecord) -> str:
    return ", ".join(one.id + _until(one) for one in tenant.keys) or "none"


def _until(key: KeyRecord) -> str:
    if key.expires is None:
        return ""
    return " (expired)" if key.expires <= time.time() else f" (until {_day(key.expires)})"


def _day(moment: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(moment))
