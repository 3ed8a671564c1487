"""Measures a served pipeline under load: what a picture demands, where latency goes, and where the knee is.

A server of its own is started and asked over HTTP by the load generator. Demands are processor times read
from the accounts of a saturated server, because work that shares cores and caches costs more than work
alone; shares of latency are of what single requests spent. Both, and the throughput of the networks alone,
go into the section `pipeline` of the machine profile (arXiv 2403.12981).
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trimtab.errors import TrimtabError, UsageError
from trimtab.server.pipeline import load, networks_alone
from trimtab.server.pipeline.header import read
from trimtab.server.pipeline.images import Mix, Picture, drawn, pictures_of
from trimtab.server.pipeline.ops.crop import HEIGHT
from trimtab.server.pipeline.ops.decode import factor_for
from trimtab.server.pipeline.ops.fit import FitSettings, fitted
from trimtab.server.pipeline.spec import PipelineSpec
from trimtab.server.pipeline.spec import load as load_spec

SECTION = "pipeline"
_START_S = 120.0
_CLIENTS_A_CORE = 3


def measure(
    path: Path, mix: Mix, *, rates: Sequence[float] = (), clients: int = 0, seconds: float = 10.0,
    seed: int = 0, quick: bool = False, beside: Path = Path(), say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:  # fmt: skip
    """Measure one pipeline with one mix of pictures.

    Parameters
    ----------
    path : of the pipeline
    rates : requests a second of open-loop runs, each of `seconds`
    clients : of the closed loop that saturates it; 0 chooses
    beside : where the mix's files are

    Returns
    -------
    the section's data; times in ms, throughput in pictures a second

    Raises
    ------
    TrimtabError : the server does not start, or fails a request
    """
    spec = load_spec(path)
    pictures = pictures_of(mix, beside)
    seconds = min(seconds, 2.0) if quick else seconds
    with tempfile.TemporaryDirectory(prefix="trimtab-pictures-") as folder:
        files = _written(pictures, Path(folder))
        say(f"{len(pictures)} pictures; starting the server")
        with served(path) as server:
            cores = spec.cores or usable()
            singles = _asked(load.Plan(server.port, files, [*range(len(files))] * 2), say, "one by one")
            rounds = 1 if quick else 3
            guess = max(
                len(files) * rounds, int(seconds * len(singles["seen"]) / max(0.1, singles["wall_s"]))
            )
            order = drawn(pictures, min(guess, 2000), seed)
            before = server.cpu_s()
            many = clients or _CLIENTS_A_CORE * cores
            full = _asked(load.Plan(server.port, files, order, clients=many), say, f"{many} clients")
            spent_s = server.cpu_s() - before
            runs = []
            for rate in rates:
                order_at = drawn(pictures, max(8, int(rate * seconds)), seed + 1)
                due = load.poisson(rate, len(order_at), seed)
                seen = load.carry_out(load.Plan(server.port, files, order_at, due_s=due))
                runs.append(run_of(rate, seen))
                say(f"{rate:g}/s: {runs[-1]['per_s']:.2f}/s, p99 {runs[-1]['p99_ms']:.0f} ms")
        say("the networks alone")
        alone = networks_alone.throughput(spec, pictures, cores, 1.0 if quick else 4.0)
        law = networks_alone.batch_law(spec, cores)
    return section_of(spec, pictures, singles, full, spent_s, runs, alone, law)


def section_of(
    spec: PipelineSpec, pictures: Sequence[Picture], singles: dict[str, Any], full: dict[str, Any],
    spent_s: float, runs: list[dict[str, Any]], alone_per_s: float, law: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """What was seen as the section's data."""
    cores = spec.cores or usable()
    elsewhere = {stage.title for stage in spec.stages if stage.worker == "process"}
    rows = full["seen"]
    count, knee = len(rows), len(rows) / full["wall_s"]
    by_stage: defaultdict[str, float] = defaultdict(float)
    each: dict[int, list[dict[str, float]]] = {}
    for row in rows:
        own: defaultdict[str, float] = defaultdict(float)
        for name, value in row["answer"]["timing"]["cpu_ms"].items():
            own[name.partition(": ")[0]] += value
        for name, value in own.items():
            by_stage[name] += value
        each.setdefault(row["picture"], []).append(own)
    local_ms = sum(value for name, value in by_stage.items() if name not in elsewhere)
    # What HTTP, JSON, the event loop and the accounts themselves take; not known picture by picture.
    by_stage["server"] = max(0.0, spent_s * 1e3 - local_ms)
    cpu_ms = {name: value / count for name, value in by_stage.items()}
    total_ms = sum(cpu_ms.values())
    megapixels = sum(pictures[row["picture"]].width * pictures[row["picture"]].height for row in rows) / 1e6
    latency: defaultdict[str, float] = defaultdict(float)
    covered = []
    for row in singles["seen"][len(pictures) :]:  # the first round warms
        timing = row["answer"]["timing"]
        for name, value in timing["stages_ms"].items():
            latency[name] += value
        covered.append(sum(timing["stages_ms"].values()) / timing["total_ms"])
    widths = {row["picture"]: columns_of(row["answer"]) for row in [*singles["seen"], *rows]}
    return {
        "name": spec.name,
        "cores": cores,
        "stages": [stage.model_dump(mode="json") for stage in spec.stages],
        "pictures_per_s": knee,
        "networks_alone_per_s": alone_per_s,
        "preserved": knee / alone_per_s if alone_per_s else 0.0,
        "cpu_ms": cpu_ms,
        "cpu_ms_per_megapixel": {name: value * count / megapixels for name, value in cpu_ms.items()},
        "cpu_share": {name: value / total_ms for name, value in cpu_ms.items()},
        "busy_cores": total_ms * knee / 1e3,
        "latency_share": {name: value / sum(latency.values()) for name, value in latency.items()},
        "stages_over_total": statistics.median(covered),
        "client_cpu_s": full["cpu_s"],
        "client_cpu_ms": full["cpu_s"] * 1e3 / count,
        "runs": runs,
        "law": law,
        "pictures": [
            {
                "name": picture.name, "weight": picture.weight,
                "features": features_of(picture, spec, widths[index]), "columns": widths[index],
                "cpu_ms": _mean(each[index]) if index in each else {},
            }
            for index, picture in enumerate(pictures)
            if index in widths
        ],
    }  # fmt: skip


def features_of(
    picture: Picture, spec: PipelineSpec, columns: Sequence[int] | None = None
) -> dict[str, float]:
    """What a picture's demand follows from.

    Parameters
    ----------
    columns : widths of its crops where they are known; else lines and characters speak for them
    """
    header = read(picture.body, 1e6)
    height, width, tensor = header.height, header.width, 0.0
    for stage in spec.stages:
        if (
            stage.op == "decode-image"
            and header.format == "JPEG"
            and stage.settings.get("decoder") != "pillow"
        ):
            factor = factor_for(header, int(stage.settings.get("side", 0)))
            height, width = -(-height // factor), -(-width // factor)
        elif stage.op == "fit-to-network":
            chosen = FitSettings.model_validate(stage.settings)
            rows, across = fitted(height, width, chosen)
            tensor = rows * across / 1e6
    lines = picture.lines
    crops = len(lines) if lines is not None else len(columns or ())
    return {
        "one": 1.0, "megabytes": len(picture.body) / 1e6, "megapixels": header.megapixels,
        "decoded_megapixels": height * width / 1e6, "tensor_megapixels": tensor, "crops": float(crops),
        "characters": float(picture.characters) if lines is not None else sum(columns or ()) / 20.0,
    }  # fmt: skip


def columns_of(answer: dict[str, Any]) -> list[int]:
    """Widths of the crops of an answer, at the height that the networks read."""
    found = []
    for one in answer["results"]:
        if "box" not in one:
            return []
        (ax, ay), (bx, by), _, (dx, dy) = one["box"]
        across, down = ((ax - bx) ** 2 + (ay - by) ** 2) ** 0.5, ((ax - dx) ** 2 + (ay - dy) ** 2) ** 0.5
        across, down = (down, across) if down >= 1.5 * across else (across, down)
        found.append(max(1, round(HEIGHT * across / max(down, 1.0))))
    return found


def run_of(rate: float, seen: dict[str, Any]) -> dict[str, Any]:
    """One open-loop run in figures; times count from when a picture was due."""
    rows = seen["seen"]
    fine = [row["total_s"] * 1e3 for row in rows if row["status"] == 200]
    return {
        "rate_per_s": rate, "asked": len(rows), "done": len(fine),
        "refused": sum(row["status"] == 429 for row in rows),
        "failed": sum(row["status"] not in (200, 429) for row in rows),
        "per_s": len(fine) / seen["wall_s"],
        "p50_ms": load.quantile(fine, 0.5) if fine else 0.0,
        "p99_ms": load.quantile(fine, 0.99) if fine else 0.0,
        "late_p99_ms": load.quantile([row["late_s"] * 1e3 for row in rows], 0.99),
        "client_cpu_share": seen["cpu_s"] / seen["wall_s"],
    }  # fmt: skip


class Server:
    """A server that was started to be measured."""

    def __init__(self, port: int) -> None:
        self.port = port

    def cpu_s(self) -> float:
        """Processor time of its process so far."""
        text = self.get("/metrics").decode()
        found = re.search(r"^process_cpu_seconds_total ([0-9.e+-]+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def get(self, path: str) -> bytes:
        """An answer's body."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            body: bytes = answer.read()
        return body


@contextmanager
def served(path: Path, *arguments: str) -> Iterator[Server]:
    """`trimtab serve PATH` on a free port, as a process of its own.

    Raises
    ------
    UsageError : it does not start; says what it said
    """
    program = "from trimtab.cli.main import main; main()"
    command = [
        sys.executable, "-c", program, "serve", str(path), "--port", "0", "--host", "127.0.0.1",
        "--max-wait-seconds", "0", "--max-queue", "4096", "--max-queue-per-key", "4096",
        "--keys-file", str(Path(tempfile.gettempdir()) / "trimtab-no-keys.json"), *arguments,
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    stderr = process.stderr
    assert stderr is not None
    said: list[str] = []
    started = threading.Event()

    def listen() -> None:
        for line in stderr:
            said.append(line)
            if " at http" in line:
                started.set()
        started.set()

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        started.wait(_START_S)
        found = re.search(r" at http://[^:]+:(\d+)", "".join(said))
        if found is None:
            raise UsageError(f"the pipeline's server did not start: {''.join(said)[-500:].strip()}")
        yield Server(int(found[1]))
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        listener.join()
        stderr.close()


def usable() -> int:
    """Processors that this process may use."""
    from trimtab.machine.probe import describe

    return describe().usable


def _written(pictures: Sequence[Picture], folder: Path) -> list[str]:
    files = []
    for number, picture in enumerate(pictures):
        place = folder / f"{number}"
        place.write_bytes(picture.body)
        files.append(str(place))
    return files


def _asked(plan: load.Plan, say: Callable[[str], None], what: str) -> dict[str, Any]:
    begin = time.monotonic()
    seen = load.carry_out(plan)
    bad = Counter(row["status"] for row in seen["seen"] if row["status"] != 200)
    if bad:
        raise TrimtabError(f"the pipeline failed requests; by status: {dict(bad)}", "look at one by hand")
    say(f"{what}: {len(seen['seen']) / seen['wall_s']:.2f}/s in {time.monotonic() - begin:.1f} s")
    return seen


def _mean(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: statistics.fmean(row.get(name, 0.0) for row in rows) for name in names}
