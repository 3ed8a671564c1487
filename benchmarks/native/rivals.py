"""What `trimtab bench stream` asks of trimtab's executors and of their rivals, by turns.

Knows how each is started and asked; what the answers are worth is the benchmark's business.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from native import programs
from peers import roster
from trimtab import _native
from trimtab.errors import TrimtabError
from trimtab.machine import quiet
from trimtab.machine.bench import BenchOptions
from trimtab.machine.measures import stream
from trimtab.machine.probe import describe
from trimtab.machine.rounds import Ask, Contender, Contest
from trimtab.machine.worker import Worker

PATTERNS = ("copy", "scale", "add", "triad")
ARRAYS = (2, 2, 3, 3)  # that each pass reads and writes
OURS, PLAIN, NAIVE, BLOCK = (
    "trimtab",
    "trimtab, plain stores",
    "trimtab, serial first touch",
    "trimtab, block",
)
OPENMP, PAR = "C with OpenMP", "std::execution::par"
DECODED = 128

Trial = Callable[[int], list[list[float]]]


@dataclass(frozen=True, slots=True)
class Cells:
    """Bytes a second of every trial: contender -> pattern -> trials, of one number of threads."""

    threads: int
    rates: Mapping[str, Mapping[str, list[float]]]

    def ratio(self, name: str, other: str, pattern: str) -> float:
        pairs = zip(self.rates[name][pattern], self.rates[other][pattern], strict=True)
        return statistics.median(mine / theirs for mine, theirs in pairs)

    def geomean(self, name: str, other: str) -> float:
        return statistics.geometric_mean(self.ratio(name, other, pattern) for pattern in PATTERNS)


class Bench:
    """The programs of one run, and everything that is asked of them."""

    def __init__(self, options: BenchOptions) -> None:
        self.options = options
        self.say = roster.say_of(options)
        self.threads = options.threads or describe().usable
        array_bytes = 2**26 if options.quick else max(4 * stream.last_cache_bytes(), 2**27)
        self.numbers = array_bytes // 8
        self.absent: dict[str, str] = {}
        self.stores: dict[str, str] = {}
        self.worst_error = 0.0
        self.workers: dict[str, Worker] = {}
        self.kernels = _native.choose_kernels()
        self.repeats = 2 if options.quick else 3 * options.repeats

    def start(self, stack: ExitStack) -> None:
        """Compile and start the rivals; who is missing is named in the report."""
        pinned = {"OMP_PROC_BIND": "true"}
        makers: dict[str, Callable[[int], Path]] = {OPENMP: programs.openmp_stream, PAR: programs.par_stream}
        for name, make in makers.items():
            try:
                path = make(self.numbers)
            except TrimtabError as error:
                self._absent(name, error)
                continue
            environment = pinned if name == OPENMP else None
            self.workers[name] = stack.enter_context(Worker(name, [str(path)], environment))
            self.stores[name] = programs.stores_of(path)
        self.stores[OURS] = _native.stream_store(self.kernels, "f64", True)
        self.stores[PLAIN] = _native.stream_store(self.kernels, "f64", False)
        self.stores[NAIVE] = self.stores[BLOCK] = self.stores[OURS]
        driver = str(roster.HERE / "regions.py")
        self.workers["python"] = stack.enter_context(Worker("regions", [sys.executable, driver]))

    def cells(self, threads: int) -> Cells:
        """All contenders by turns, with so many threads."""
        rounds = 4 if self.options.quick else 10
        trials = self._trials(threads)
        rates: dict[str, dict[str, list[float]]] = {name: {p: [] for p in PATTERNS} for name in trials}
        for number in range(self.repeats):
            if number % 5 == 0 and not self.options.quick:
                quiet.wait(self.options.patience_seconds)
            names = list(trials)
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                seconds = trials[name](rounds)
                for pattern, arrays, each in zip(PATTERNS, ARRAYS, seconds, strict=True):
                    rates[name][pattern].append(arrays * self.numbers * 8 / min(each[1:]))
            fastest = max(rates, key=lambda name: rates[name]["triad"][-1])
            triad = rates[fastest]["triad"][-1] / 1e9
            self.say(
                f"stream {threads} threads, {number + 1}/{self.repeats}: {fastest} {triad:.1f} GB/s triad"
            )
        return Cells(threads, rates)

    def _trials(self, threads: int) -> dict[str, Trial]:
        def ours(executor: str, streaming: bool = True, run: Any = None) -> Trial:
            place = _native.StreamPlace(executor, threads)
            made = run or _native.Stream(place, self.kernels, "f64", self.numbers, list(PATTERNS))
            return lambda rounds: made.trial(rounds, 1, streaming)  # which raises when a result is wrong

        def theirs(worker: Worker) -> Trial:
            def trial(rounds: int) -> list[list[float]]:
                answer = worker.call("trial", threads=threads, rounds=rounds)
                self.worst_error = max(self.worst_error, answer["error_share"])
                return list(answer["seconds"])

            return trial

        place = _native.StreamPlace("fork-join", threads)
        shared = _native.Stream(place, self.kernels, "f64", self.numbers, list(PATTERNS))
        trials = {OURS: ours("fork-join", True, shared), PLAIN: ours("fork-join", False, shared)}
        if threads > 1:
            trials |= {NAIVE: ours("parallel"), BLOCK: ours("block")}
        return trials | {n: theirs(w) for n, w in self.workers.items() if n in (OPENMP, PAR)}

    def apart(self) -> list[float]:
        """How many times serial first touch the matching allocator is: geometric means of pairs of trials."""
        runs = []
        for executor in ("fork-join", "parallel"):
            place = _native.StreamPlace(executor, self.threads)
            runs.append(_native.Stream(place, self.kernels, "f64", self.numbers, list(PATTERNS)))
        ratios = []
        for number in range(2 * self.repeats):
            best: dict[int, list[float]] = {}
            for which in (0, 1) if number % 2 else (1, 0):
                best[which] = [min(each[1:]) for each in runs[which].trial(5, 1, True)]
            ratios.append(statistics.geometric_mean(b / a for a, b in zip(best[0], best[1], strict=True)))
        return ratios

    def regions(self) -> dict[str, list[float]]:
        """Nanoseconds of an empty region with all threads, by turns: the best batch of each turn."""
        count, threads = 1000, self.threads
        places = {name: _native.StreamPlace(name, threads) for name in ("fork-join", "block")}
        asks: dict[str, Callable[[], list[float]]] = {
            f"trimtab, {name}": lambda place=place: place.region_seconds(count, 5)  # type: ignore[misc]
            for name, place in places.items()
        }
        for name, worker in self.workers.items():
            if name in (OPENMP, PAR):
                asks[name] = lambda worker=worker: worker.call(  # type: ignore[misc]
                    "regions", threads=threads, count=count, batches=5
                )["seconds"]
        python = self.workers["python"]
        asks["Python thread pool"] = lambda: [
            each * 10
            for each in python.call("pool", threads=threads, count=count // 10, batches=3)["seconds"]
        ]
        try:
            library = str(programs.parallel_for())
            asks["torch parallel_for"] = lambda: python.call(
                "torch", library=library, threads=threads, count=count, batches=5
            )["seconds"]
        except TrimtabError as error:
            self._absent("torch parallel_for", error)
        found: dict[str, list[float]] = {name: [] for name in asks}
        for _ in range(self.repeats):
            for name, ask in asks.items():
                found[name].append(min(ask()) / count * 1e9)
        return found

    def products(self) -> dict[str, float]:
        """Share of the read ceiling that a one-row product reaches, in the formats of the default model."""
        inputs, threads = 576, self.threads
        chance = np.random.default_rng(roster.SEED)
        pool = _native.Pool(threads)
        block = chance.normal(size=(4096, inputs)).astype(np.float32)
        shares = {}
        for format in ("q4+min", "q8"):
            bytes_of_row = _native.matrix_bytes(format, 4096, inputs, False) / 4096
            rows = max(1, round(self.numbers * 8 / bytes_of_row / 4096)) * 4096
            matrix = _native.Matrix(format, rows, inputs)
            for row in range(0, rows, 4096):
                matrix.fill(pool, row, 0, 0, block.view(np.uint8).reshape(-1), None, 0, 4096)
            x, out = block[:1], np.zeros((1, rows), np.float32)
            form = matrix.form[0]
            place = _native.StreamPlace("fork-join", threads)
            read = _native.Stream(place, self.kernels, "f64", matrix.nbytes // 8, ["sum"])
            pairs = []
            for _ in range(self.repeats):
                ceiling = matrix.nbytes / min(read.trial(10)[0][1:])
                product = min(self._timed(pool, matrix, x, out, form) for _ in range(9))
                pairs.append(matrix.nbytes / product / ceiling)
            shares[format] = statistics.median(pairs)
            self.say(f"products of {format}: {shares[format]:.0%} of the read ceiling")
        return shares

    def _timed(self, pool: Any, matrix: Any, x: Any, out: Any, form: str) -> float:
        start = time.perf_counter()
        _native.linear(pool, self.kernels, matrix, x, out, form, 1)
        return time.perf_counter() - start

    def decode(self) -> dict[str, list[float]]:
        """Tokens a second of greedy decoding with the kernels on each executor."""
        task = roster.open_task(self.options)
        try:
            modules = programs.executors(self.say)
        except TrimtabError as error:
            for name in programs.EXECUTORS:
                self._absent(f"decode on {name}", error)
            modules = {}
        driver, load = str(roster.HERE / "other_executor.py"), {"sequences": 1, "positions": 512}
        load |= {"model": str(task.model), "threads": self.threads}

        def contender(name: str, module: str, environment: Mapping[str, str]) -> Contender:
            def start() -> Worker:
                return Worker(name, [sys.executable, driver, module], environment)

            return Contender(name, start, load)

        contenders = [contender(OURS, _native.__file__, {})]
        if "openmp" in modules:
            # However OpenMP is told to deal out its loops, the best of them counts.
            for schedule in ("static", "dynamic", "guided"):
                environment = {"OMP_SCHEDULE": schedule}
                contenders.append(contender(f"OpenMP {schedule}", str(modules["openmp"]), environment))
        if "async" in modules:
            contenders.append(contender("std::async", str(modules["async"]), {}))
        tokens = 32 if self.options.quick else DECODED
        patience = 0 if self.options.quick else self.options.patience_seconds
        ask = Ask(
            "decode",
            "decode",
            lambda number: {"prompt": task.windows(number, 1, 32)[0], "tokens": tokens},
            lambda answer: answer["tokens"] / answer["seconds"],
        )
        with Contest(
            contenders, limits=task.limits, patience_seconds=patience, say=self.say, keep=""
        ) as contest:
            race = contest.race(ask, self.options.rounds)
            self.absent |= contest.absent
            outputs = {name: [answer["output"] for answer in each] for name, each in race.answers.items()}
        wrong = [name for name, each in outputs.items() if each != outputs[OURS]]
        if wrong:
            raise TrimtabError(
                f"decoding on {', '.join(wrong)} gave other tokens", "the kernels are the same"
            )
        return race.values

    def _absent(self, name: str, error: TrimtabError) -> None:
        self.absent[name] = f"{error.message}; {error.hint}"
        self.say(f"{name} is left out: {self.absent[name]}")
