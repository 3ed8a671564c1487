"""The executors that the kernels run on are at least as fast as OpenMP and oneTBB on the same STREAM.

Work: STREAM's four passes over arrays of four times the last cache each, with 1 and 2 threads, against STREAM
in C with OpenMP and against std::execution::par, both built by the same gcc with -O3 -march=native, with the
same huge pages. Trials of ten rounds take turns; a trial's figure is the best of its rounds without the first
one, a ratio is the median over pairs of trials. Then: what an empty parallel region costs; decoding with the
same kernels on OpenMP and on std::async; how much of the read ceiling the matrix-vector product of decoding
gets; what first touch by one thread does (the owners of two made-up targets' pages are logic, not speed).
Targets: 0.98 times OpenMP in each of the eight cells and 1.0 in their geometric mean, 1.0 times
std::execution::par; a region at most 1.0 times OpenMP's and 0.3 times what torch or Python take; decoding 1.0
times OpenMP and 1.3 times std::async; 85 % of the read ceiling. Arrays on a GPU need one and are not here.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from native import programs
from peers import roster
from trimtab import _native
from trimtab.errors import TrimtabError
from trimtab.machine import quiet, stream
from trimtab.machine.bench import BenchOptions, target
from trimtab.machine.probe import describe
from trimtab.machine.report import Report, command_line, versions
from trimtab.machine.rounds import Ask, Contender, Contest, spread
from trimtab.machine.worker import Worker

CLAIM = (__doc__ or "").partition("\n")[0]
PATTERNS = ("copy", "scale", "add", "triad")
ARRAYS = (2, 2, 3, 3)  # that each pass reads and writes
READ = (1, 1, 2, 2)
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

    def together(self, name: str, other: str) -> float:
        """Median over the trials of the geometric mean over the patterns."""
        mine, theirs = self.rates[name], self.rates[other]
        trials = range(len(mine["copy"]))
        return statistics.median(
            statistics.geometric_mean(mine[p][trial] / theirs[p][trial] for p in PATTERNS) for trial in trials
        )


def run(options: BenchOptions) -> Report:
    bench = Bench(options)
    with ExitStack() as stack:
        bench.start(stack)
        cells = [bench.cells(threads) for threads in sorted({1, bench.threads})]
        regions = bench.regions()
    shares = bench.products()
    decode = bench.decode()
    targets = [
        *_cell_targets(cells),
        *_region_targets(regions),
        *_other_targets(bench, cells, shares, decode),
    ]
    result = {
        "ratio": _geomean(cells, OPENMP),
        "unit": "times the bytes/s of C with OpenMP, geometric mean of the cells",
        "limit_fraction": min(shares.values()),
        "quality": {"mean relative error": bench.worst_error},
        "threads": bench.threads,
        "array_bytes": bench.numbers * 8,
        "stores": bench.stores,
        "region_ns": {name: statistics.median(values) for name, values in regions.items()},
        "share_of_read_ceiling": shares,
        "decode_tokens_per_s": {name: statistics.median(values) for name, values in decode.items()},
        "samples": cells[-1].rates.get(OURS, {}).get("triad", []),
        "targets": targets,
        "absent": bench.absent,
        "table": [*_table(bench, cells), *_small_table(regions, decode)],
    }
    return Report(
        name="stream-quick" if options.quick else "stream",
        claim=CLAIM,
        machine=asdict(describe()),
        versions=versions(gcc=programs.compiler()),
        command=command_line(),
        seeds=[roster.SEED],
        samples={
            **{f"bytes/s, {each.threads} threads": each.rates for each in cells},
            "ns of a region": regions,
            "decode tokens/s": decode,
        },
        result=result,
    )


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
        import numpy as np

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
        import time

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


def _cell_targets(cells: Sequence[Cells]) -> list[Any]:
    found = []
    for each in cells:
        if OPENMP in each.rates:
            found += [
                target(f"{p}, {each.threads} threads: times OpenMP", each.ratio(OURS, OPENMP, p), least=0.98)
                for p in PATTERNS
            ]
    for other in (OPENMP, PAR):
        if (mean := _geomean(cells, other)) is not None:
            found.append(target(f"geometric mean: times {other}", mean, least=1.0))
    return found


def _region_targets(regions: Mapping[str, Sequence[float]]) -> list[Any]:
    found = []
    for other, most in ((OPENMP, 1.0), ("torch parallel_for", 0.3), ("Python thread pool", 0.3)):
        if other in regions:
            pairs = zip(regions["trimtab, fork-join"], regions[other], strict=True)
            share = statistics.median(mine / theirs for mine, theirs in pairs)
            found.append(target(f"empty region: share of {other}", share, most=most))
    return found


def _other_targets(
    bench: Bench, cells: Sequence[Cells], shares: Mapping[str, float], decode: Mapping[str, Sequence[float]]
) -> list[Any]:
    found = []
    for format, share in shares.items():
        found.append(target(f"one-row product in {format}: share of the read ceiling", share, least=0.85))
    fastest = max(
        (n for n in decode if n.startswith("OpenMP")), key=lambda n: statistics.median(decode[n]), default=""
    )
    for other, least in ((fastest, 1.0), ("std::async", 1.3)):
        if other in decode:
            pairs = zip(decode[OURS], decode[other], strict=False)
            ratio = statistics.median(mine / theirs for mine, theirs in pairs)
            found.append(target(f"decode: times the same kernels on {other}", ratio, least=least))
    if NAIVE in cells[-1].rates:
        apart = abs(cells[-1].together(OURS, NAIVE) - 1)
        found.append(target("one memory: matching against serial first touch, apart", apart, most=0.03))
    for executor, wanted in (("parallel", 1.0), ("block", 0.0)):
        touched, used = _native.StreamPlace(executor, 2, False, [[0], [0]]).ownership(2**24)
        theirs = [first != owner for first, owner in zip(touched, used, strict=True) if owner == 1]
        share = sum(theirs) / len(theirs)
        what = f"two made-up targets, {executor}: share of the second one's pages misplaced (logic)"
        found.append(target(what, share, least=1.0) if wanted else target(what, share, most=0.0))
    return found


def _geomean(cells: Sequence[Cells], other: str) -> float | None:
    known = [each.geomean(OURS, other) for each in cells if other in each.rates]
    return statistics.geometric_mean(known) if known else None


def _table(bench: Bench, cells: Sequence[Cells]) -> list[Any]:
    """GB/s as counted, then what went to memory: a plain store reads the line first."""
    rows = []
    for each in cells:
        for name, rates in each.rates.items():
            stores = bench.stores.get(name, "")
            row: dict[str, Any] = {"contender": name, "threads": each.threads}
            for pattern, arrays, read in zip(PATTERNS, ARRAYS, READ, strict=True):
                counted = statistics.median(rates[pattern]) / 1e9
                own_way = pattern == "copy" and "memcpy" in stores  # the C library decides how it writes
                traffic = None if own_way else counted if "nt" in stores else counted * (read + 2) / arrays
                row[pattern] = f"{counted:.1f} / {'?' if traffic is None else f'{traffic:.1f}'}"
            row["spread of triad"] = spread(rates["triad"])
            row["stores"] = stores
            rows.append(row)
    return rows


def _small_table(regions: Mapping[str, Sequence[float]], decode: Mapping[str, Sequence[float]]) -> list[Any]:
    rows = [{"contender": name, "empty region ns": statistics.median(each)} for name, each in regions.items()]
    return rows + [
        {"contender": name, "decode tok/s": statistics.median(each)} for name, each in decode.items()
    ]
