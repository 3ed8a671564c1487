"""Runs a plan: every job on its device, conversation by conversation, with the logs pulled at the end.

It starts engines, asks and waits; what a device can do is the driver's business, and what the figures mean
the summary's. An engine that does not fit or dies is a result of its job, not an end of the run.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from trimtab.evaluate.device import DRIVERS, events, filing, sustained
from trimtab.evaluate.device.conversations import Conversation, conversations
from trimtab.evaluate.device.driver import (
    Driver,
    EngineFailed,
    Event,
    Launch,
    Question,
    Session,
    Stopped,
    Turn,
)
from trimtab.evaluate.device.engines import launch, work_of
from trimtab.evaluate.device.plan import Device, Job, Plan
from trimtab.machine import probe

Say = Callable[[str], None]


@dataclass(slots=True)
class Outcome:
    """Everything that one job has given.

    Parameters
    ----------
    cold_s, warm_s : from the engine's start to its first token, the model's file not in memory, and in memory
    mismatches : turns whose prompt the engine counted otherwise than the model's own tokenizer and template
    """

    job: Job
    stopped: Stopped
    emulation: str
    threads: int
    cold_s: float | None = None
    warm_s: float | None = None
    held: list[events.Held] = field(default_factory=list)
    accounts: list[events.Accounted | None] = field(default_factory=list)
    trend: sustained.Trend | None = None
    mismatches: int = 0
    thermal: list[tuple[float, float]] = field(default_factory=list)
    accuracy: dict[str, Any] | None = None
    problem: str = ""


def run(plan: Plan, out: Path, say: Say) -> list[Outcome]:
    """Carry a plan out; the files of each job are in a folder of `out` by the job's name.

    Raises
    ------
    TrimtabError : a model is not to be had, or a device cannot be set up at all
    """
    from trimtab.formats import cache

    out.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    jobs = list(plan.jobs())
    scored: dict[tuple[str, str], dict[str, Any]] = {}
    for number, job in enumerate(jobs, 1):
        say(f"{number}/{len(jobs)} {job.device.name}: {job.engine.label}, {job.model}, {job.quant}")
        model = job.file or cache.resolve(job.model, pull=True)
        outcome = _Job(plan, job, model, out / job.folder, say).run()
        if plan.accuracy and job.engine.name == "trimtab" and outcome.stopped.ending == "ok":
            key = (str(model), job.quant)
            if key not in scored:
                from trimtab.evaluate.device.accuracy import score

                scored[key] = score(model, job.quant, say=say)
            outcome.accuracy = scored[key]
        if outcome.problem:
            say(f"  {outcome.stopped.ending}: {outcome.problem}")
        outcomes.append(outcome)
    return outcomes


class _Job:
    """One job under way."""

    def __init__(self, plan: Plan, job: Job, model: Path, folder: Path, say: Say) -> None:
        self._plan, self._job, self._model, self._folder, self._say = plan, job, model, folder, say
        self._threads = job.device.threads or _processors(job.device)
        self._driver: Driver = load_driver(job.device)
        self._tokenizer = _tokenizer(model)
        self._held: list[events.Held] = []
        self._before: list[int] = []  # tokens that the engine may still have in its cache

    def run(self) -> Outcome:
        plan, driver = self._plan, self._driver
        self._folder.mkdir(parents=True, exist_ok=True)
        for old in (*self._folder.glob("events-*.csv"), *self._folder.glob("conversation-*.json")):
            if self._job.device.record is None or not old.samefile(self._job.device.record / old.name):
                old.unlink()
        outcome = Outcome(self._job, Stopped("ok"), driver.emulation, self._threads)
        try:
            if self._job.engine.url is None and self._job.device.driver != "replay":
                outcome.cold_s = self._first_token(cold=True)
                outcome.warm_s = self._first_token(cold=False)
            driver.prepare()
            session = driver.start(self._launch(driver.push(self._model)))
            time.sleep(plan.settle_s)
            self._pulse(driver)
            outcome.thermal += driver.thermal()
            for repetition in range(plan.repetitions):
                for conversation in conversations()[slice(*plan.conversations)]:
                    self._held.append(self._hold(session, repetition, conversation))
                    if self._held[-1].turns and self._held[-1].turns[-1].failure:
                        break
                self._say(f"  repetition {repetition + 1} of {plan.repetitions}: {self._brief()}")
                if self._held and self._held[-1].turns[-1].failure:
                    outcome.problem = self._held[-1].turns[-1].failure
                    break
            if plan.sustained is not None and not outcome.problem:
                outcome.trend = self._sustain(session)
            outcome.thermal += driver.thermal()
            self._tick()
            time.sleep(plan.settle_s)
        except EngineFailed as error:
            outcome.problem = error.message
            outcome.stopped = Stopped(error.ending)
        finally:
            stopped = driver.stop()
        if not (outcome.problem and stopped.ending == "ok"):
            outcome.stopped = stopped
        outcome.emulation = driver.emulation
        outcome.held = self._held
        self._file(outcome)
        return outcome

    def _launch(self, model: Path) -> Launch:
        return launch(self._job, model, threads=self._threads, context=self._plan.context)

    def _first_token(self, cold: bool) -> float:
        """Seconds from the start of the engine to the first token of a short question."""
        driver = load_driver(self._job.device)
        try:
            driver.prepare()
            model = driver.push(self._model)
            if cold:
                forget_file(model)
            session = driver.start(self._launch(model))
            begin = time.monotonic()
            turn = session.ask(Question([{"role": "user", "content": "Hello."}], 2, forced=False))
            if not turn.token_times_s:
                ending = driver.stop().ending
                raise EngineFailed(f"no first token: {turn.failure}", "crashed" if ending == "ok" else ending)
            return session.start_s + turn.token_times_s[0] - begin
        finally:
            driver.stop()
            driver.discard()

    def _hold(self, session: Session, repetition: int, conversation: Conversation) -> events.Held:
        """One conversation, every turn after the other."""
        plan, forced = self._plan, self._plan.lengths == "forced"
        number = len(conversation.turns) if plan.turns is None else min(plan.turns, len(conversation.turns))
        turns: list[Turn] = []
        computed: list[int] = []
        between: list[tuple[int, Event]] = []
        answers: list[str] = []
        cores = self._core_seconds()
        begin = time.monotonic()
        for index in range(number):
            start = time.monotonic()
            messages, tokens = self._fitting(conversation.messages(index, None if forced else answers))
            question = Question(
                messages, plan.max_tokens, forced, plan.sampling.temperature, plan.sampling.top_k,
                plan.sampling.top_p, plan.sampling.seed + repetition, plan.timeout_s,
                self._tokenizer.end_of_generation,
            )  # fmt: skip
            between.append((index, Event("compose", start, time.monotonic() - start)))
            turn = session.ask(question)
            start = time.monotonic()
            turn = turn if turn.prompt_tokens else _counted(turn, len(tokens))
            shared = turn.cached_tokens or _shared(self._before, tokens)
            computed.append(max(0, turn.prompt_tokens - shared))
            turns.append(turn)
            answers.append(turn.text)
            self._before = tokens
            self._tick()
            between.append((index, Event("record", start, time.monotonic() - start)))
            if turn.failure:
                break
        return events.Held(
            repetition, conversation.number, begin, time.monotonic() - begin,
            self._core_seconds() - cores, turns, computed, between,
        )  # fmt: skip

    def _sustain(self, session: Session) -> sustained.Trend | None:
        """Back-to-back turns until the time is over."""
        wanted, plan = self._plan.sustained, self._plan
        assert wanted is not None
        begin = told = time.monotonic()
        times: list[float] = []
        for messages in _endless():
            if time.monotonic() - begin >= wanted.seconds:
                break
            chosen, tokens = self._fitting(messages)
            turn = session.ask(
                Question(
                    chosen, plan.max_tokens, True, timeout_s=plan.timeout_s,
                    end_tokens=self._tokenizer.end_of_generation,
                )
            )  # fmt: skip
            self._before = tokens
            self._tick()
            times += turn.token_times_s
            if turn.failure:
                break
            if time.monotonic() - told > 30:
                told = time.monotonic()
                self._say(f"  sustained: {told - begin:.0f} of {wanted.seconds:.0f} s")
        watcher = getattr(self._driver, "watcher", None)
        end = min(time.monotonic(), begin + wanted.seconds)
        samples = [] if watcher is None else watcher.samples
        return sustained.trend(times, begin, end, wanted.window_s, samples)

    def _fitting(self, messages: list[dict[str, str]]) -> tuple[list[dict[str, str]], list[int]]:
        """The chat without its oldest exchanges, as far as the context demands, and its tokens."""
        most = self._plan.context - self._plan.max_tokens
        while True:
            tokens = self._tokenizer.encode(messages)
            if len(tokens) <= most or len(messages) <= 1:
                return messages, tokens
            messages = messages[2:]

    def _file(self, outcome: Outcome) -> None:
        """Account the energy, write the logs, and pull the device's own."""
        model = filing.power_model(self._plan, self._job, self._threads, self._say)
        trace = filing.trace_of(self._job.device, self._driver, self._bursts, self._say)
        work = work_of(self._model, self._job.quant if self._job.engine.name == "trimtab" else None)
        for held in self._held:
            accounted = events.account(held, work, trace, model)
            outcome.accounts.append(accounted)
            events.write_log(self._folder, held, accounted)
            counted = [turn.prompt_tokens for turn in held.turns]
            outcome.mismatches += sum(
                count != expected for count, expected in zip(counted, self._expected(held), strict=True)
            )
        self._driver.pull(self._folder)
        filing.write_power(self._folder, trace, model, self._driver)
        filing.write_job(self._folder, outcome.stopped, outcome.warm_s, outcome.thermal)

    def _expected(self, held: events.Held) -> Iterator[int]:
        """Prompt tokens by the model's own tokenizer and template."""
        conversation = conversations()[held.conversation]
        answers = None if self._plan.lengths == "forced" else [turn.text for turn in held.turns]
        for index in range(len(held.turns)):
            yield len(self._fitting(conversation.messages(index, answers))[1])

    _bursts: Sequence[tuple[float, float]] = ()

    def _pulse(self, driver: Driver) -> None:
        if self._job.device.meter_record is not None:
            from trimtab.machine.power.meters import pulse

            self._say("  a pulse of load, by which the meter's record will be aligned")
            self._bursts = pulse(self._threads)

    def _tick(self) -> None:
        tick = getattr(self._driver, "tick", None)
        if tick is not None:
            tick()

    def _core_seconds(self) -> float:
        from trimtab.evaluate.device.activity import core_seconds

        watcher = getattr(self._driver, "watcher", None)
        return 0.0 if watcher is None else core_seconds(watcher.process)

    def _brief(self) -> str:
        last = self._held[-1].turns if self._held else []
        made = sum(turn.output_tokens - 1 for turn in last)
        took = sum(event.duration_s for turn in last if (event := turn.event("decode")))
        return f"{made / took:.1f} tokens/s" if took > 0 else "nothing was answered"


@dataclass(frozen=True, slots=True)
class _Tokens:
    """What the coordinator needs of a tokenizer."""

    tokenizer: Any
    end_of_generation: tuple[int, ...]

    def encode(self, messages: list[dict[str, str]]) -> list[int]:
        return list(self.tokenizer.encode_chat(messages))


def load_driver(device: Device) -> Driver:
    """The driver of a plan's device."""
    module, _, name = DRIVERS[device.driver].partition(":")
    driver: Driver = getattr(import_module(module), name)(device)
    return driver


def forget_file(path: Path) -> None:
    """Ask the system to drop a file from its page cache, so that the next start is a cold one."""
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(handle)


def _tokenizer(model: Path) -> _Tokens:
    from trimtab.formats.source import open_source
    from trimtab.models.tokenizer import load_tokenizer

    with closing(open_source(model)) as source:
        tokenizer = load_tokenizer(source)
    return _Tokens(tokenizer, tuple(sorted(tokenizer.eos_ids)))


def _processors(device: Device) -> int:
    from trimtab.evaluate.device.groups import processors_of

    usable = probe.describe().usable
    if device.limits.cpuset is not None:
        usable = min(usable, len(processors_of(device.limits.cpuset)))
    if device.limits.cpus is not None:
        usable = min(usable, max(1, int(device.limits.cpus + 0.5)))
    return usable


def _shared(before: Sequence[int], now: Sequence[int]) -> int:
    """Tokens at the beginning that an engine with a prefix cache has already."""
    for index, (old, new) in enumerate(zip(before, now, strict=False)):
        if old != new:
            return index
    return min(len(before), len(now))


def _counted(turn: Turn, prompt_tokens: int) -> Turn:
    from dataclasses import replace

    return replace(turn, prompt_tokens=prompt_tokens)


def _endless() -> Iterator[list[dict[str, str]]]:
    while True:
        for conversation in conversations():
            for index in range(len(conversation.turns)):
                yield conversation.messages(index)
