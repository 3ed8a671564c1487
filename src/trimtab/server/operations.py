"""What a running server has besides its model; light, because it is there before the model begins to load."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trimtab.server.access.keys import Keys, default_path
from trimtab.server.access.quota import Quotas
from trimtab.server.lifecycle import Lifecycle

if TYPE_CHECKING:
    from trimtab.server.call import Call
    from trimtab.server.settings import ServeSettings


@dataclass(slots=True)
class Operations:
    """Keys, limits, and whoever listens.

    Parameters
    ----------
    listeners : told of every call that is over
    """

    keys: Keys
    lifecycle: Lifecycle = field(default_factory=Lifecycle)
    quotas: Quotas = field(default_factory=Quotas)
    patience_s: float = math.inf
    request_s: float = math.inf
    open_metrics: bool = False
    listeners: list[Callable[[Call], None]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, settings: ServeSettings) -> Operations:
        """As the settings say.

        Raises
        ------
        BadFile : the file of keys cannot be used
        """
        own = settings.api_key.get_secret_value() if settings.api_key is not None else None
        return cls(
            Keys(settings.keys_file or default_path(), own),
            patience_s=settings.max_wait_seconds or math.inf,
            request_s=settings.request_seconds or math.inf,
            open_metrics=settings.open_metrics,
        )

    def call_for(self, owner: str, path: str, priority: int) -> Call | None:
        """A call on a tenant's behalf that nobody waits for; None when it may not ask any more."""
        from trimtab.server.call import Call

        tenant = self.keys.tenant(owner)
        if tenant is None:
            return None
        quota = self.quotas.of(tenant.name, tenant.limits)
        return Call(tenant, quota, priority=priority, method="BATCH", path=path, route=path)

    def over(self, call: Call) -> None:
        """A call has ended, in whichever thread: settle it and tell those who listen."""
        call.end()
        with self._lock:
            for tell in self.listeners:
                tell(call)
