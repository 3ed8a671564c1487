"""One call of the API: who makes it, what it was given, and how it went.

`gate.py` makes one for every HTTP request; work without a client (batches) makes its own. What the engine
does for it is read off its handles when it ends: nothing is counted per token.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trimtab.server.keys import ANONYMOUS, Tenant

if TYPE_CHECKING:
    from fastapi import Request

    from trimtab.engine.handle import Handle


@dataclass(slots=True, eq=False)
class Call:
    """One call, from its arrival to its log line.

    Parameters
    ----------
    id : what answers and logs call it
    handles : everything that the engine does for it
    """

    tenant: Tenant = ANONYMOUS
    id: str = ""
    handles: list[Handle] = field(default_factory=list)

    def salt(self, cache_salt: str | None) -> str:
        """Under which the engine shares prefixes: private to the tenant, and to what the client asks for."""
        return f"{self.tenant.salt}\0{cache_salt or ''}"


def call_of(request: Request) -> Call:
    """The call behind a request."""
    found: Call | None = getattr(request.state, "call", None)
    if found is None:
        found = request.state.call = Call()
    return found
