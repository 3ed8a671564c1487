"""Whether the server takes new work, and how much is under way."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Lifecycle:
    """Changed by signals and by every request; read between requests.

    Parameters
    ----------
    draining : it is about to end and refuses what is new
    active : requests under way; an end waits for these
    """

    draining: bool = False
    active: int = 0
