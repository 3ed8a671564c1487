"""Who may use the server: tenants, each known by its API keys, and what each of them may take.

Knows keys and limits, nothing of HTTP: `gate.py` asks here who is calling and puts the answer on the request.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What one tenant may take; None means no limit of its own.

    Parameters
    ----------
    tokens_per_minute : of prompts and outputs together
    max_concurrent : requests at a time
    models, adapters : names it may ask for; empty allows all
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrent: int | None = None
    models: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tenant:
    """On whose behalf a request runs.

    Parameters
    ----------
    name : as `trimtab keys` lists it; empty for the only tenant of a server without keys
    salt : prompt prefixes are shared only under equal salts; stays when a key is rotated
    weight : its share of a busy engine, relative to others
    admin : may see metrics, and requests of other tenants
    """

    name: str
    salt: str
    limits: Limits = Limits()
    weight: float = 1.0
    admin: bool = False


ANONYMOUS = Tenant("", "", admin=True)
"""Everybody, on a server without keys."""
