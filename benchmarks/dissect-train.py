"""A training step is explained to within 5 %, and its time and memory are known before it is taken.

Work: steps of the default model (full, low-rank and over a four-bit base) with the techniques of arXiv
2311.03687 switched on one by one and together: fused attention F, recomputation R, low-rank updates L, the
same over four bits QL, bf16 products, optimizer moments in a file. Every set is a process of its own and
takes its steps by turns with the naive one. Then twenty small models that nothing was fitted on, each with
a limit of memory: the techniques chosen by the predicted table against the best that was measured.
Techniques of several processes (ZeRO) and several GPUs are not here.
"""

from __future__ import annotations

import random
import statistics
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from peers.roster import SEED
from trimtab.formats import cache
from trimtab.formats.source import open_source
from trimtab.machine import quiet
from trimtab.machine.bench import BenchOptions, target
from trimtab.machine.probe import describe
from trimtab.machine.report import Report, command_line, versions
from trimtab.machine.worker import Worker
from trimtab.models.config import config_from
from trimtab.train.costs import StepCosts
from trimtab.train.shapes import llama_shape
from trimtab.train.trace import attention_bytes, trace_step
from trimtab.train.trainer import Techniques

CLAIM = (__doc__ or "").partition("\n")[0]
DRIVER = Path(__file__).resolve().parent / "peers" / "train_cell.py"
SETS = (
    "F",
    "R",
    "F,R",
    "L",
    "F,L",
    "QL",
    "F,QL",
    "F,R,L",
    "F,R,QL",
    "bf16",
    "F,bf16",
    "L,bf16",
    "offload",
    "F,R,offload",
)
LONG = 1024
CHOICES = ("", "F", "R", "F,R", "F,bf16", "F,R,bf16", "F,offload", "F,R,offload")


def run(options: BenchOptions) -> Report:
    bench = Bench(options)
    try:
        return bench.report()
    finally:
        bench.stack.close()


class Bench:
    """Workers and what they said."""

    def __init__(self, options: BenchOptions) -> None:
        self.options, self.stack = options, ExitStack()
        self.threads = options.threads or describe().usable
        self.model = cache.resolve(options.model)
        self.rounds = 2 if options.quick else max(3, options.rounds)
        self.costs: dict[str, Any] = {}
        self.losses: dict[str, list[float]] = {}

    def worker(self, codes: str, batch: int = 1, length: int = 128) -> Worker:
        """A process with a cell of the default model that has taken its first steps."""
        name = f"{codes or 'naive'} {batch}x{length}"
        self.say(f"loading {name}")
        worker = self.process(name)
        answer = worker.call(
            "load", techniques=codes, batch=batch, length=length, threads=self.threads, model=str(self.model)
        )
        self.losses[name] = answer["losses"]
        return worker

    def process(self, name: str) -> Worker:
        return self.stack.enter_context(closing(Worker(name, [sys.executable, str(DRIVER)])))

    def say(self, text: str) -> None:
        if not self.options.json_only:
            print(text, file=sys.stderr, flush=True)

    def report(self) -> Report:
        naive = self.worker("")
        self.costs = naive.call("costs")
        sets = SETS[:3] if self.options.quick else SETS
        cells = [self.cell(naive, codes) for codes in sets]
        # The naive cell, measured against itself: what the turns alone change.
        first = self.cell(naive, "")
        naive.close()
        long = self.long_pair()
        decisions = self.decisions(2 if self.options.quick else 20)
        table = [first, *cells]
        result = {
            "model": self.model.name, "threads": self.threads,
            "ratio": None, "unit": "targets met of all",
            "quality": {"first losses": {each["techniques"] or "naive": each["loss"] for each in table}},
            "targets": self.targets(first, cells, long, decisions),
            "table": [self.row(each) for each in table], "long": long, "decisions": decisions,
            "costs": self.costs,
            "operators": {each["techniques"] or "naive": each["operators"] for each in table},
            "modules": {each["techniques"] or "naive": each["modules"] for each in table},
        }  # fmt: skip
        met = [each["met"] for each in result["targets"]]
        result["ratio"] = sum(met) / len(met)
        return Report(
            name="dissect-train-quick" if self.options.quick else "dissect-train", claim=CLAIM,
            machine=asdict(describe()), versions=versions(), command=command_line(), seeds=[SEED],
            samples={each["techniques"] or "naive": each["seconds"] for each in table}, result=result,
        )  # fmt: skip

    def cell(self, naive: Worker, codes: str, batch: int = 1, length: int = 128) -> dict[str, Any]:
        """One set of techniques beside the naive step, by turns."""
        worker = self.worker(codes, batch, length)
        mine, theirs, recorded, closures = [], [], [], []
        for _ in range(self.rounds):
            quiet.wait(self.options.patience_seconds)
            theirs.append(naive.call("step")["seconds"])
            mine.append(worker.call("step")["seconds"])
            answer = worker.call("recorded")
            recorded.append(answer["seconds"])
            closures.append(answer["closure"])
        memory = worker.call("memory")
        predicted = worker.call("predict", costs=self.costs)
        worker.close()
        self.say(
            f"{codes or 'naive'}: {statistics.median(mine):.3f} s, predicted {predicted['seconds']:.3f} s"
        )
        return {
            "techniques": codes, "batch": batch, "length": length, "loss": self.losses[worker.name],
            "seconds": mine, "naive_seconds": theirs,
            "recorded_seconds": recorded, "closures": closures, "memory": memory,
            "predicted": {k: predicted[k] for k in ("seconds", "arithmetic_seconds", "bytes")},
            "modules": predicted["modules"], "operators": predicted["operators"],
        }  # fmt: skip

    def long_pair(self) -> dict[str, Any]:
        """Eager and fused attention over long sequences, low-rank so that memory suffices."""
        config = config_from(open_source(self.model))
        length = 256 if self.options.quick else LONG
        eager, fused = self.worker("L", 1, length), self.worker("F,L", 1, length)
        pairs = [
            (eager.call("step")["seconds"], fused.call("step")["seconds"])
            for _ in range(2 if self.options.quick else 3)
        ]
        eager.close()
        fused.close()
        return {
            "length": length, "pairs": pairs, "faster": statistics.median(a / b for a, b in pairs),
            "attention_bytes": {
                kind: attention_bytes(config, kind, 1, length) for kind in ("eager", "fused")
            },
        }  # fmt: skip

    def decisions(self, count: int) -> list[dict[str, Any]]:
        """Cases nothing was fitted on: what the predicted table chooses, and what was best."""
        draw, found, worker = random.Random(SEED), [], self.process("small models")
        for number in range(count):
            shape = {
                "layers": draw.choice((4, 6, 8)), "hidden": draw.choice((192, 256, 320, 384)),
                "vocab": draw.choice((4096, 8192)),
            }  # fmt: skip
            batch, length = draw.choice((1, 2, 4)), draw.choice((64, 128, 256, 512))
            config, costs = llama_shape(**shape), StepCosts.of(self.costs)
            traces = {codes: trace_step(config, Techniques.of(codes), batch, length) for codes in CHOICES}
            bytes_of = {codes: trace.total_bytes for codes, trace in traces.items()}
            low, high = min(bytes_of.values()), max(bytes_of.values())
            limit = low + draw.uniform(0.05, 0.9) * (high - low)
            fits = [codes for codes in CHOICES if bytes_of[codes] <= limit]
            chosen = min(fits, key=lambda codes: costs.step_seconds(traces[codes]))
            measured = {codes: self.small_cell(worker, codes, batch, length, shape) for codes in CHOICES}
            feasible = [codes for codes in CHOICES if measured[codes]["allocated_peak"] <= limit]
            best = min(feasible or CHOICES, key=lambda codes: float(measured[codes]["seconds"]))
            usual = "F,R"
            found.append(
                {"case": number, **shape, "batch": batch, "length": length, "limit_bytes": limit,
                 "chosen": chosen or "naive", "best": best or "naive",
                 "slower": measured[chosen]["seconds"] / measured[best]["seconds"],
                 "usual_slower": measured[usual]["seconds"] / measured[best]["seconds"],
                 "usual_fits": measured[usual]["allocated_peak"] <= limit,
                 "fits": measured[chosen]["allocated_peak"] <= limit}
            )  # fmt: skip
            self.say(f"case {number + 1}/{count}: {chosen or 'naive'}, {found[-1]['slower']:.2f} of the best")
        return found

    def small_cell(self, worker: Worker, codes: str, batch: int, length: int, shape: Any) -> dict[str, float]:
        worker.call("load", techniques=codes, batch=batch, length=length, threads=self.threads, shape=shape)
        seconds = statistics.median(worker.call("step")["seconds"] for _ in range(5))
        return {"seconds": seconds, "allocated_peak": worker.call("memory")["allocated_peak"]}

    def targets(
        self, naive: Mapping[str, Any], cells: Sequence[Mapping[str, Any]], long: Mapping[str, Any],
        decisions: Sequence[Mapping[str, Any]],
    ) -> list[dict[str, Any]]:  # fmt: skip
        every = [naive, *cells]
        closures = [statistics.median(each["closures"]) for each in every]
        recorders = [_ratio(each["recorded_seconds"], each["seconds"]) for each in every]
        memories = [
            abs(_closure(each["memory"]) - 1)
            for each in every if "offload" not in each["techniques"]
        ]  # fmt: skip
        errors = [abs(_error(each, "seconds")) for each in every]
        plain = [abs(_error(each, "arithmetic_seconds")) for each in every]
        chosen = [each for each in decisions if each["slower"] <= 1.1 and each["fits"]]
        found = [
            target("closure of modules, least", min(closures), least=0.95),
            target("closure of modules, most", max(closures), most=1.05),
            target("recorder on over off, worst cell", max(recorders), most=1.03),
            target("categories of memory against resident growth, worst", max(memories), most=0.10),
            target("predicted step, median error", statistics.median(errors), most=0.15),
            target("predicted step, worst error", max(errors), most=0.35),
            target(
                "error of arithmetic alone over ours",
                statistics.median(plain) / statistics.median(errors), least=2,
            ),
            target("fused attention at long sequences, times as fast", long["faster"], least=1.3),
            target(
                "its memory, times less",
                long["attention_bytes"]["eager"] / long["attention_bytes"]["fused"], least=3,
            ),
            target("share of decisions within 10 % of the best", len(chosen) / len(decisions), least=0.8),
            target("share of decisions inside the limit", _share(d["fits"] for d in decisions), least=1.0),
        ]  # fmt: skip
        by_name = {each["techniques"]: each for each in every}
        return found + list(_signs(by_name))

    def row(self, each: Mapping[str, Any]) -> dict[str, Any]:
        memory = each["memory"]
        return {
            "techniques": each["techniques"] or "naive", "s": statistics.median(each["seconds"]),
            "of naive": _ratio(each["seconds"], each["naive_seconds"]),
            "predicted s": each["predicted"]["seconds"], "closure": statistics.median(each["closures"]),
            "recorder": _ratio(each["recorded_seconds"], each["seconds"]),
            **{f"{k} MB": memory[k] / 1e6 for k in ("weights", "gradients", "optimizer", "activations")},
            "peak MB": memory["allocated_peak"] / 1e6, "spare MB": memory["spare"] / 1e6,
            "resident MB": memory["rss_growth"] / 1e6, "highest MB": memory["rss_highest"] / 1e6,
        }  # fmt: skip


def _signs(cells: Mapping[str, Mapping[str, Any]]) -> Any:
    """The technique table's signs, each against the naive step; those whose cells ran."""

    def slower(codes: str) -> float:
        return _ratio(cells[codes]["seconds"], cells[codes]["naive_seconds"])

    def less(codes: str, *keys: str, than: str = "") -> float:
        theirs = sum(cells[than]["memory"][key] for key in keys)
        return float(theirs / max(1, sum(cells[codes]["memory"][key] for key in keys)))

    if "R" in cells:
        yield target("R: activations, times less", less("R", "activations"), least=2)
        yield target("R: step time, least", slower("R"), least=1.15)
        yield target("R: step time, most", slower("R"), most=1.5)
    if "L" in cells:
        yield target("L: gradients and moments, times less", less("L", "gradients", "optimizer"), least=10)
    if "QL" in cells and "L,bf16" in cells:
        yield target("QL: base, times less than L over bf16", less("QL", "base", than="L,bf16"), least=2.5)
        over = statistics.median(cells["QL"]["seconds"]) / statistics.median(cells["L"]["seconds"])
        yield target("QL: step time over that of L", over, least=1.0)
    if "offload" in cells:
        yield target("offload: resident moments, times less", less("offload", "optimizer"), least=5)
        yield target("offload: step time", slower("offload"), least=1.0)


def _closure(memory: Mapping[str, Any]) -> float:
    """Of the resident growth when the most is in use, what categories and the C library's spare explain."""
    return (memory["allocated_peak"] + memory["spare"]) / max(1, memory["rss_growth"])


def _ratio(mine: Sequence[float], theirs: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(mine, theirs, strict=True))


def _error(each: Mapping[str, Any], key: str) -> float:
    return float(each["predicted"][key]) / statistics.median(each["seconds"]) - 1


def _share(flags: Any) -> float:
    values = [bool(flag) for flag in flags]
    return sum(values) / len(values)
