"""What the server keeps, and within which limits; imported at start, so it holds only names and numbers."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastapi import FastAPI, Request

    from trimtab.server.served import Loading
    from trimtab.server.settings import ServeSettings
    from trimtab.server.storage.batch_runner import BatchRunner
    from trimtab.server.storage.store import Store


RESUME_AFTER_S = 1.0
"""After the model is there, until batches of an earlier process go on."""


def default_folder() -> Path:
    """The user's own folder for what programs keep."""
    from platformdirs import user_state_path

    return user_state_path("trimtab") / "server"


@dataclass(slots=True, eq=False)
class State:
    """The state folder of one server, opened by the first request that needs it.

    Parameters
    ----------
    folder : None takes the user's own
    max_file_bytes, max_stored_bytes : of one uploaded file, and of all
    response_days : how long answers of /v1/responses can be referred to; 0 keeps none
    """

    folder: Path | None = None
    max_file_bytes: int = 200 << 20
    max_stored_bytes: int = 10 << 30
    response_days: int = 30
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _store: Store | None = field(default=None, init=False)
    _runner: BatchRunner | None = field(default=None, init=False)
    _start: Callable[[Store], BatchRunner] | None = field(default=None, init=False)

    @classmethod
    def of(cls, settings: ServeSettings) -> State:
        """What the settings say."""
        return cls(
            settings.state_dir, settings.max_file_bytes, settings.max_stored_bytes, settings.response_days
        )

    @property
    def store(self) -> Store:
        with self._lock:
            if self._store is None:
                from trimtab.server.storage.store import Store

                self._store = Store(self.folder or default_folder())
            return self._store

    @property
    def runner(self) -> BatchRunner:
        """What works off batches; it begins when it is first woken."""
        store = self.store
        with self._lock:
            if self._runner is None:
                if self._start is None:
                    raise RuntimeError("the state belongs to no application yet")
                self._runner = self._start(store)
            return self._runner

    def attach(self, app: FastAPI, loading: Loading, max_line_bytes: int) -> None:
        """Belong to `app`, and go on with what an earlier process left once the model is there."""
        app.state.kept = self

        def start(store: Store) -> BatchRunner:
            from trimtab.server.storage.batch_runner import BatchRunner

            return BatchRunner(app, store, loading, max_line_bytes)

        self._start = start
        loading.on_success(lambda served: self._resume())

    def close(self) -> None:
        """Stop the work on batches; what was under way is done again by the next process."""
        if self._runner is not None:
            self._runner.stop()
        if self._store is not None:
            self._store.close()

    def _resume(self) -> None:
        if self.store.exists:
            # Whoever waits for the model to be there comes first.
            timer = threading.Timer(RESUME_AFTER_S, lambda: self.runner.wake())
            timer.daemon = True
            timer.start()


def state_of(request: Request) -> State:
    """What the server of a request keeps."""
    state: State = request.app.state.kept
    return state
