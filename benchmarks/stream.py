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
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from native import programs
from native.rivals import ARRAYS, OPENMP, OURS, PAR, PATTERNS, Bench, Cells
from peers import roster
from trimtab import _native
from trimtab.machine.bench import BenchOptions, target
from trimtab.machine.probe import describe
from trimtab.machine.report import Report, command_line, versions
from trimtab.machine.rounds import spread

CLAIM = (__doc__ or "").partition("\n")[0]
READ = (1, 1, 2, 2)  # arrays that each pass of STREAM reads


def run(options: BenchOptions) -> Report:
    bench = Bench(options)
    with ExitStack() as stack:
        bench.start(stack)
        cells = [bench.cells(threads) for threads in sorted({1, bench.threads})]
        regions = bench.regions()
    apart = bench.apart() if bench.threads > 1 else []
    shares = bench.products()
    decode = bench.decode()
    targets = [
        *_cell_targets(cells),
        *_region_targets(regions),
        *_other_targets(shares, decode, apart),
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
            "times serial first touch": apart,
            "decode tokens/s": decode,
        },
        result=result,
    )


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
    shares: Mapping[str, float], decode: Mapping[str, Sequence[float]], apart: Sequence[float]
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
    if apart:
        away = abs(statistics.median(apart) - 1)
        found.append(target("one memory: matching against serial first touch, apart", away, most=0.03))
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
