"""Progress of a download or a check: a bar in a terminal, a line a stage elsewhere, always on stderr."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

from trimtab.cli.text import note, size

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

WORDS = {"download": "downloading", "unpack": "unpacking", "verify": "checking", "wait": "waiting for"}


class Bar:
    """Called with a stage, the bytes done and the bytes in all; may be called from any thread."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._stage = ""
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        text = f"{WORDS.get(stage, stage)} {self.name}"
        if not sys.stderr.isatty():
            if stage != self._stage:
                note(f"{text} ({size(total)})" if total else text)
            self._stage = stage
            return
        progress = self._started()
        if stage != self._stage or self._task is None:
            if self._task is not None:
                progress.remove_task(self._task)
            self._task = progress.add_task(text, total=total or None)
            self._stage = stage
        progress.update(self._task, completed=done, total=total or None)

    def _started(self) -> Progress:
        if self._progress is None:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
                TransferSpeedColumn,
            )

            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
            self._progress = Progress(
                *columns,
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._progress.start()
        return self._progress


def fetched(model: str) -> None:
    """Fetch a known model that is not in the cache yet, so that a first `run` or `serve` just works."""
    from trimtab.formats import cache

    found = cache.known(model)
    if found is None or cache.path_of(found).exists():
        return
    note(f"{found.name} is not here yet: {found.summary}, {found.license}, {size(found.size_bytes)}")
    with Bar(found.name) as bar:
        cache.resolve(model, pull=True, progress=bar)
