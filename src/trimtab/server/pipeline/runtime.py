"""Runs a pipeline: a few threads, as many as cores, that always do the latest stage that has a batch.

Finishing what is begun comes first, so little is under way at a time; a stage whose next one is crowded
pauses, and so a crowd at the end is felt at the entrance, where it is refused. Knows stages, queues and
deadlines; what an operation does, and where a request comes from, it does not.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from trimtab.errors import Busy, TrimtabError
from trimtab.server.pipeline import header as headers
from trimtab.server.pipeline.account import Account
from trimtab.server.pipeline.batcher import Batcher
from trimtab.server.pipeline.buffers import Buffers
from trimtab.server.pipeline.cost import Costs
from trimtab.server.pipeline.ops import operation
from trimtab.server.pipeline.ops.base import Laps, Op
from trimtab.server.pipeline.spec import PipelineSpec, StageSpec
from trimtab.server.pipeline.work import Item, Job

Unit = Job | Item


class TooLate(TrimtabError):
    """A request that was not through by its deadline."""

    http_status = 504


class Failed(TrimtabError):
    """A stage that failed on a request for reasons of its own."""


@dataclass(slots=True, eq=False)
class Stage:
    """A stage at work. Its counters are guarded by the pipeline's lock."""

    spec: StageSpec
    op: Op | None
    workers: int
    waiting: Batcher[Any]
    remote: Any = None
    running: int = 0
    batches: int = 0
    units: int = 0
    columns: Counter[str] = field(default_factory=Counter)

    @property
    def each(self) -> bool:
        return operation(self.spec.op).each

    @property
    def crowd(self) -> int:
        """Items that wait here, or are with another process."""
        return len(self.waiting) + (self.remote.open if self.remote is not None else 0)

    @property
    def full(self) -> bool:
        return self.crowd >= self.spec.queue


class Pipeline:
    """A pipeline that takes jobs.

    Parameters
    ----------
    cores : threads that work; default: as the spec says
    """

    def __init__(self, spec: PipelineSpec) -> None:
        self.spec = spec
        self.cores = spec.cores or len(os.sched_getaffinity(0))
        self.buffers = Buffers()
        self.account = Account()
        self.costs = Costs()
        self.in_work: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._closed = False
        self.stages: list[Stage] = []
        try:
            for each in spec.stages:
                self.stages.append(self._stage(each))
        except BaseException:
            self._close_stages()
            raise
        self._threads = [
            threading.Thread(target=self._work, name=f"pipeline-{number}", daemon=True)
            for number in range(self.cores)
        ]
        for thread in self._threads:
            thread.start()

    def _stage(self, spec: StageSpec) -> Stage:
        kind = operation(spec.op)
        waiting: Batcher[Any] = Batcher(spec.batch.most, spec.batch.delay_ms / 1e3)
        workers = spec.workers or self.cores
        if spec.worker == "process":
            from trimtab.server.pipeline.remote import Remote

            remote = Remote(spec, workers, self.spec.threads, self._back)
            return Stage(spec, None, workers, waiting, remote)
        return Stage(spec, kind(spec.settings, self.spec.threads, self.buffers), workers, waiting)

    # --- in and out -----------------------------------------------------------------------------------------

    def submit(
        self, body: bytes, tell: Callable[[Job], None], *, began: float | None = None,
        deadline_s: float | None = None, tenant: str = "", most_each: int | None = None,
        patience_s: float = math.inf,
    ) -> Job:  # fmt: skip
        """Take a picture in.

        Parameters
        ----------
        tell : called once, from any thread, when it is over; look at the job's `error`
        began : when the request came, of the monotonic clock
        deadline_s : for this job; the pipeline's own is the most
        most_each : jobs of one tenant at a time

        Raises
        ------
        BadImage, TooLarge : by the picture's header
        Busy : too much is under way, or it could not be through in time
        """
        limits = self.spec.limits
        header = headers.read(body, limits.megapixels)
        now = time.monotonic()
        lasts_s = min(limits.deadline_ms / 1e3, deadline_s or math.inf)
        with self._lock:
            backlog_s = self.costs.backlog_s / self.cores
            cost_s = self.costs.expect(header.megapixels)
            if self._closed:
                raise Busy("the pipeline is shutting down", "ask again in a moment")
            count = self.in_work.total()
            crowded = count >= limits.waiting or backlog_s > patience_s
            if crowded or (most_each is not None and self.in_work[tenant] >= most_each):
                raise _busy(f"{count} pictures are in work or waiting", backlog_s / max(1, count))
            if backlog_s + cost_s > lasts_s:
                raise _busy(
                    f"the pictures before this one take {backlog_s:.1f} s, longer than its deadline",
                    backlog_s + cost_s - lasts_s,
                )
            job = Job(body, header, now + lasts_s, tell, tenant=tenant, cost_s=cost_s)
            job.trace.began = began if began is not None else now
            self.in_work[tenant] += 1
            self.costs.enter(cost_s)
            job.traced_at = time.monotonic()
            self.stages[0].waiting.put(job, self._key(self.stages[0], job), job.traced_at)
            self._changed.notify()
        return job

    def remember(self, job: Job, sent_at: float) -> None:
        """The answer about a job has been sent; from now on it is part of the account."""
        with self._lock:
            self.account.remember(job, sent_at)

    def snapshot(self) -> dict[str, Any]:
        """What goes on now, and the sums so far, as plain values."""
        with self._lock:
            account = self.account
            return {
                "in_work": self.in_work.total(), "backlog_s": self.costs.backlog_s,
                "outcomes": dict(account.outcomes), "seconds": dict(account.seconds),
                "cpu_s": dict(account.cpu_s), "megapixels": account.megapixels, "items": account.items,
                "latency": account.latency.snapshot(), "recent": list(account.recent),
                "stages": [
                    {"name": stage.spec.title, "waiting": stage.crowd, "running": stage.running,
                     "workers": stage.workers, "batches": stage.batches, "units": stage.units,
                     "columns": dict(stage.columns)}
                    for stage in self.stages
                ],
            }  # fmt: skip

    def close(self) -> None:
        """Stop; jobs that are not through end with `Busy`."""
        with self._lock:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        for stage in self.stages:
            for unit in iter(lambda stage=stage: stage.waiting.take(math.inf), []):  # type: ignore[misc]
                for one in unit:
                    self._fail(one.job, Busy("the pipeline is shutting down", "ask again in a moment"))
        self._close_stages()

    def _close_stages(self) -> None:
        for stage in self.stages:
            if stage.remote is not None:
                stage.remote.close()
            if stage.op is not None:
                stage.op.close()

    # --- the threads ----------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._lock:
                stage, units = self._next()
                if stage is None:
                    return
            self._run(stage, units)
            with self._lock:
                stage.running -= 1
                self._changed.notify_all()

    def _next(self) -> tuple[Stage | None, list[Any]]:
        """Wait for something to do; the lock is held. No stage means the end."""
        while not self._closed:
            now, soonest = time.monotonic(), math.inf
            for number in range(len(self.stages) - 1, -1, -1):
                stage = self.stages[number]
                if stage.running >= stage.workers or stage.remote is not None:
                    continue
                if number + 1 < len(self.stages) and self.stages[number + 1].full:
                    continue
                if units := stage.waiting.take(now):
                    stage.running += 1
                    return stage, units
                soonest = min(soonest, stage.waiting.ripe_at())
            self._changed.wait(None if soonest == math.inf else max(0.0, soonest - now))
        return None, []

    def _run(self, stage: Stage, units: list[Any]) -> None:
        alive = [unit for unit in units if not unit.job.dead]
        for unit in units:
            if unit.job.dead:
                self._drop(unit)
        if not alive:
            return
        began = time.monotonic()
        _note_waits(stage, alive, began)
        laps = Laps(began)
        try:
            assert stage.op is not None
            stage.op.run(alive, laps)
        except TrimtabError as error:
            self._failed(alive, error)
            return
        # An operation that fails takes its own batch down and nothing else.
        except Exception as error:
            failure = Failed(f"the stage `{stage.spec.title}` failed: {type(error).__name__}: {error}"[:300])
            failure.__cause__ = error
            self._failed(alive, failure)
            return
        _note_laps(stage.spec.title, alive, laps.spans)
        with self._lock:
            stage.batches += 1
            stage.units += len(alive)
            if stage.each:
                widths = [unit.width for unit in alive]
                stage.columns["content"] += sum(widths)
                stage.columns["padding"] += max(widths) * len(widths) - sum(widths)
        self._advance(stage, alive)

    def _failed(self, units: Sequence[Unit], error: BaseException) -> None:
        """Everybody in the batch fails: which one was to blame is not known."""
        for job in {unit.job: None for unit in units}:
            self._fail(job, error)

    def _advance(self, stage: Stage, units: Sequence[Unit]) -> None:
        number = self.stages.index(stage) + 1
        if not stage.each:
            for unit in units:
                job = unit.job
                if "crops" in operation(stage.spec.op).gives:
                    job.items = job.items[: self.spec.limits.items]
                    job.open_items = len(job.items)
                    for item in job.items:
                        item.traced_at = job.traced_at
                    if job.items and number < len(self.stages):
                        self._put(number, job.items)
                    else:
                        self._finish(job)
                elif number < len(self.stages):
                    self._put(number, [job])
                else:
                    self._finish(job)
        elif number < len(self.stages):
            self._put(number, units)
        else:
            for unit in units:
                if unit.job.item_done():
                    self._finish(unit.job)

    def _put(self, number: int, units: Sequence[Unit]) -> None:
        stage = self.stages[number]
        if stage.remote is not None:
            self._send(stage, units)
            return
        now = time.monotonic()
        with self._lock:
            for unit in units:
                stage.waiting.put(unit, self._key(stage, unit), now)
            self._changed.notify_all()

    def _key(self, stage: Stage, unit: Unit) -> Any:
        return 0 if stage.op is None else stage.op.key(unit, stage.spec.batch.bucket)

    # --- stages in other processes --------------------------------------------------------------------------

    def _send(self, stage: Stage, units: Sequence[Unit]) -> None:
        title = stage.spec.title
        for unit in units:
            laps = Laps(unit.traced_at or None)
            unit.queued_at = time.monotonic()
            try:
                stage.remote.send(unit)
            except TrimtabError as error:
                self._fail(unit.job, error)
                continue
            laps.mark("handed over")
            _note_laps(title, [unit], laps.spans)

    def _back(
        self, stage_title: str, items: Sequence[Item], spans: list[Any], error: BaseException | None
    ) -> None:
        """A process is through with these items; called by the thread that listens to it."""
        stage = next(each for each in self.stages if each.spec.title == stage_title)
        if error is not None:
            for item in items:
                self._fail(item.job, error)
            return
        began = min((begin for _, begin, _, _ in spans), default=time.monotonic())
        _note_waits(stage, items, began)
        _note_laps(stage_title, items, spans)
        with self._lock:
            stage.batches += 1
            stage.units += len(items)
            self._changed.notify_all()
        self._advance(stage, items)

    # --- ends -----------------------------------------------------------------------------------------------

    def _drop(self, unit: Unit) -> None:
        job = unit.job
        if job.error is None and not job.cancelled:
            self._fail(job, TooLate("the picture was not through by its deadline", "send fewer at a time"))
        elif job.error is None:
            self._fail(job, Busy("the request was given up by its client"))

    def _fail(self, job: Job, error: BaseException) -> None:
        job.error = job.error or error
        self._finish(job)

    def _finish(self, job: Job) -> None:
        if not job.finish():
            return
        job.ended_at = time.monotonic()
        with self._lock:
            self.in_work[job.tenant] -= 1
            if self.in_work[job.tenant] <= 0:
                del self.in_work[job.tenant]
            spent_s = sum(job.trace.cpu_s.values())
            self.costs.leave(job.cost_s, job.header.megapixels, spent_s if job.error is None else None)
            self.account.add(job)
        job.tell(job)


def _note_waits(stage: Stage, units: Sequence[Unit], began: float) -> None:
    """From where the last account of a unit ended: being handed on is part of the wait."""
    word = "batch wait" if stage.each else "queue"
    waits = Counter((unit.job, unit.traced_at) for unit in units)
    for (job, traced_at), weight in waits.items():
        job.trace.add(f"{stage.spec.title}: {word}", traced_at, began, 0.0, weight)


def _note_laps(title: str, units: Sequence[Unit], spans: Sequence[tuple[str, float, float, float]]) -> None:
    end = max((end for _, _, end, _ in spans), default=0.0)
    for unit in units:
        unit.traced_at = max(unit.traced_at, end)
        unit.job.traced_at = max(unit.job.traced_at, end)
    shares = Counter(unit.job for unit in units)
    for job, weight in shares.items():
        for what, begin, end, cpu_s in spans:
            job.trace.add(f"{title}: {what}", begin, end, cpu_s * weight / len(units), weight)


def _busy(message: str, wait_s: float) -> Busy:
    error = Busy(message, "ask again later")
    error.retry_after_s = max(1, math.ceil(wait_s))
    return error
