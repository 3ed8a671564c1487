"""Ways for an item to get from one stage to the next, by what they are; each is loaded when it is named."""

from __future__ import annotations

import importlib

from trimtab.errors import UnknownName
from trimtab.server.pipeline.handover.base import HandOver

HAND_OVERS = {
    "queue": "queues:Queue",
    "ring": "ring:Ring",
    "redis-lists": "redis_lists:RedisLists",
    "jetstream-file": "jetstream:JetStream",
}


def hand_over(name: str) -> type[HandOver]:
    """The class behind a name.

    Raises
    ------
    UnknownName : there is none
    """
    if name not in HAND_OVERS:
        raise UnknownName(f"no hand-over {name!r}", f"there is {', '.join(HAND_OVERS)}", "hand_over")
    module, _, kind = HAND_OVERS[name].partition(":")
    found: type[HandOver] = getattr(
        importlib.import_module(f"trimtab.server.pipeline.handover.{module}"), kind
    )
    return found
