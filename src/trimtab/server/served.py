"""The model behind the API: present at once, or still loading while the server already listens.

Knows the engine, the tokenizer and the names under which clients may ask for the model; nothing of requests.
It is imported before the model begins to load, so it must stay light.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trimtab.errors import UnknownName

if TYPE_CHECKING:
    from trimtab.engine.budget import EnginePlan
    from trimtab.engine.engine import Engine
    from trimtab.models.tokenizer import Tokenizer
    from trimtab.server.console.inspector import Inspector


@dataclass(frozen=True, slots=True)
class Served:
    """One loaded model, ready to answer.

    Parameters
    ----------
    name : what answers call the model
    context : positions a sequence may have
    aliases : other names that requests may use for it
    created : Unix time at which it was loaded
    plan : how memory was divided, where that is known
    inspector : remembers requests for the console; None remembers nothing
    max_prompts : outputs of one request, its prompts times its choices
    """

    name: str
    engine: Engine
    tokenizer: Tokenizer
    context: int
    aliases: frozenset[str] = frozenset()
    created: int = field(default_factory=lambda: int(time.time()))
    plan: EnginePlan | None = None
    inspector: Inspector | None = None
    max_prompts: int = 1024

    def knows(self, asked: str) -> bool:
        """Requests may call the model by this name."""
        return asked == self.name or asked in self.aliases

    def check_name(self, asked: str | None) -> None:
        """Refuse a request for another model."""
        checked_name(asked, self.name, self.aliases)

    def close(self) -> None:
        """Stop its engine."""
        self.engine.close()


def checked_name(asked: str | None, name: str, aliases: frozenset[str]) -> None:
    """Refuse what is neither nothing nor one of the names."""
    if asked is not None and asked != name and asked not in aliases:
        raise UnknownName(f"the model {asked!r} does not exist", f"this server has {name!r}", "model")


class Loading:
    """A model that will be there: requests wait for it, `/health` tells that it is not."""

    def __init__(self) -> None:
        self._future: Future[Served] = Future()
        self._words = threading.Event()

    @classmethod
    def done(cls, served: Served) -> Loading:
        loading = cls()
        loading.finish(served)
        return loading

    def finish(self, served: Served) -> None:
        """The model is there; called once, from any thread."""
        self._future.set_result(served)
        self._words.set()

    def fail(self, error: BaseException) -> None:
        """It will never be there; waiting requests fail with `error`."""
        self._future.set_exception(error)
        self._words.set()

    def words_read(self) -> None:
        """The vocabulary is read, the weights are not; called from any thread."""
        self._words.set()

    def wait_for_words(self) -> None:
        """Return once the vocabulary is read, or the load has ended."""
        self._words.wait()

    def on_success(self, tell: Callable[[Served], None]) -> None:
        """Call `tell` with the model once it is there; at once if it is."""
        self._future.add_done_callback(lambda future: None if future.exception() else tell(future.result()))

    def on_failure(self, tell: Callable[[], None]) -> None:
        """Call `tell` when it becomes known that the model will not be there."""
        self._future.add_done_callback(lambda future: tell() if future.exception() else None)

    def result(self) -> Served:
        """The model, or the error that prevented it; waits."""
        return self._future.result()

    @property
    def ready(self) -> bool:
        return self._future.done() and self._future.exception() is None

    async def served(self) -> Served:
        """The model, as soon as it is loaded."""
        if self._future.done():
            return self._future.result()
        import asyncio  # late, so that loading starts before this import

        # A request that gives up waiting must not cancel the load for the others.
        return await asyncio.shield(asyncio.wrap_future(self._future))
