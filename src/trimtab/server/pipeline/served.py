"""A pipeline as the server knows it: a name, whether it answers to another, and its end."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from trimtab.server.pipeline.runtime import Pipeline
from trimtab.server.served import checked_name


@dataclass(frozen=True, slots=True)
class ServedPipeline:
    """One pipeline, ready to answer."""

    name: str
    pipeline: Pipeline
    created: int = field(default_factory=lambda: int(time.time()))
    aliases: frozenset[str] = frozenset()

    def check_name(self, asked: str | None) -> None:
        """Refuse a request for another one."""
        checked_name(asked, self.name, self.aliases)

    def close(self) -> None:
        """Stop its threads and processes."""
        self.pipeline.close()
