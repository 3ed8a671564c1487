"""The `gemm` section of the machine profile: timed products, a predictor fitted to them, and how good it is.

What the section holds: `rows`, columns of everything timed; `model`, a `GemmModel`; `validation`, on
products left out by shape; `energy`, where there is a meter. Beside the profile goes the table of blockings
that loading a model reads. Long lists of numbers are text, so that reading a profile stays fast.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trimtab.machine import probe
from trimtab.machine.gemm import baseline, choice, energy, plan, roof, shapes, validate
from trimtab.machine.gemm import model as models
from trimtab.machine.gemm.blocking import Blocking
from trimtab.machine.gemm.collect import LOOP_S, VISITS, Row, Say, Session, Timer, kernels_of, run
from trimtab.machine.gemm.place import session_path, table_path
from trimtab.machine.gemm.shapes import Shape
from trimtab.machine.power import energy as meters
from trimtab.machine.profile import Profile, Section, update

SECTION = "gemm"
GRID = 120
MODEL_SHARE = 0.85
"""Of the budget that timing may take; the rest is for ceilings, fitting and looking at the fit."""
QUICK = {"budget_s": 20.0, "loop_s": 0.004, "visits": 1}


def measure(
    *, formats: Sequence[str] = plan.FORMATS, threads: Sequence[int] = (), wanted: Sequence[Shape] = (),
    budget_s: float = 420.0, quick: bool = False, say: Say, path: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Time products, learn from them, and say how well that works.

    Parameters
    ----------
    formats : of weights, the most wanted first
    threads : thread counts, the most wanted first; default: all processors, and one
    wanted : products; default: the layers of language models and a grid around them
    budget_s : seconds that timing and fitting may take
    quick : a few products, coarsely timed: shows that it works, and no more
    path : the profile's file, beside which an unfinished session is kept

    Raises
    ------
    NotMeasured : the budget was too short to learn anything
    Unsupported : scikit-learn is missing, or a format is unknown
    """
    counts = list(dict.fromkeys(threads or (probe.describe().usable, 1)))
    if quick:
        formats, counts = formats[:2], counts[:1]
    budget_s = min(budget_s, QUICK["budget_s"]) if quick else budget_s
    loop_s, visits = (QUICK["loop_s"], int(QUICK["visits"])) if quick else (LOOP_S, VISITS)
    models.require_learner()
    timer = Timer(counts, loop_s=loop_s)
    kernels = kernels_of(formats, timer.kernels)
    all_shapes = list(wanted) or list(dict.fromkeys([*shapes.llm(), *shapes.grid(GRID)]))
    if quick and not wanted:
        all_shapes = [shape for shape in all_shapes if shape.ops <= 1e9][::3]
    timing_s = MODEL_SHARE * budget_s
    tasks = plan.tasks(kernels, counts, all_shapes, timing_s, loop_s=loop_s, visits=visits)
    say(f"timing {len(tasks)} products of {len(all_shapes)} shapes, about {timing_s:.0f} s")
    roofs = {count: roof.measured(count, say, _profile(path)) for count in counts}
    header = {
        "kernels": timer.kernels.name, "processor": probe.describe().processor, "loop_s": loop_s,
        "threads": counts,
    }  # fmt: skip
    session = Session(None, header, math.inf) if quick else Session(session_path(path), header)
    run(tasks, timer, session, timing_s, say, visits)
    rows = session.rows()
    say(f"learning from {len(rows)} products")
    told = fitted(rows, kernels_of({row.format for row in rows}, timer.kernels), roofs)
    libraries = [] if quick else baseline.rows(baseline.products(all_shapes), counts[0], say)
    meter = meters.open_meter()
    session.end()
    return {
        "quick": quick, "kernels": timer.kernels.name, "rows": columns([*rows, *libraries]),
        "session": session.told(), **told, "libraries": beside(rows, libraries),
        "energy": energy.measured(meter, timer, formats[:2], counts[0]).to_json() if meter else None,
        "energy_absent": "" if meter else "this machine has no energy meter",
    }  # fmt: skip


def fitted(rows: Sequence[Row], kernels: Mapping[str, Any], roofs: Mapping[int, roof.Roof]) -> dict[str, Any]:
    """`model` and `validation` of a section."""
    model = models.fit(rows, kernels, roofs)
    told = validate.left_out(rows, kernels, roofs)
    picks = validate.selection(told)
    means = {key: validate.mean_of(picks, key) for key in ("over_best", "over_default", "over_naive")}
    return {
        "model": model.to_json(),
        "validation": {
            "accuracy": validate.accuracy(told, kernels), "leakage": validate.leakage(rows, kernels),
            "selection": means | {"products": len(picks)},
        },
    }  # fmt: skip


def save(section: Section, path: Path | None = None) -> Path:
    """Put the section into the profile, and the table of blockings beside it; a quick one leaves no table."""
    place = update(SECTION, section, path)
    if section.data["quick"]:
        return place
    from trimtab import _native

    model = models.GemmModel.from_json(section.data["model"])
    stamps = {
        "date": section.date,
        "seconds": section.seconds,
        "steal": section.steal,
        "others": section.others,
    }
    table = choice.table(model, _native.ROW_CLASSES, section.data["kernels"])
    _write(table_path(place), {**table, "processor": probe.describe().processor, "section": stamps})
    return place


def load(path: Path | None = None, *, allow_noisy: bool = False) -> models.GemmModel:
    """The profile's predictor.

    Raises
    ------
    NotMeasured : there is no profile, no section, or it is stale or noisy
    Unsupported : it was written by another version
    """
    return models.GemmModel.from_json(Profile.load(path).need(SECTION, allow_noisy=allow_noisy)["model"])


_NUMBERS = ("threads", "m", "n", "k", "gated", "rows", "tiles", "strip_bytes", "grain", "visits")


def columns(rows: Sequence[Row]) -> dict[str, str]:
    """Rows as columns of text, a word a row."""
    table: dict[str, list[str]] = {
        "library": [row.library for row in rows],
        "format": [row.format for row in rows],
    }
    whole = [(row.threads, *map(int, row.shape), *row.blocking, row.n) for row in rows]
    for name, values in zip(_NUMBERS, zip(*whole, strict=True), strict=True) if whole else ():
        table[name] = list(map(str, values))
    table["median_s"] = [f"{row.median_s:.6g}" for row in rows]
    table["iqr_s"] = [f"{row.iqr_s:.3g}" for row in rows]
    table["load"] = [f"{row.load:.2f}" for row in rows]
    return {name: " ".join(words) for name, words in table.items()}


def rows_of(table: Mapping[str, str]) -> list[Row]:
    """What `columns` was given."""
    split = {name: words.split() for name, words in table.items()}
    if not split["library"]:
        return []
    found = []
    for place, (library, format) in enumerate(zip(split["library"], split["format"], strict=True)):
        threads, m, n, k, gated, *way, visits = (int(split[name][place]) for name in _NUMBERS)
        median_s, iqr_s, load = (float(split[name][place]) for name in ("median_s", "iqr_s", "load"))
        shape = Shape(m, n, k, bool(gated))
        found.append(Row(format, threads, shape, Blocking(*way), median_s, iqr_s, visits, load, library))
    return found


def beside(rows: Sequence[Row], libraries: Sequence[Row]) -> list[dict[str, Any]]:
    """Our time of a product beside a library's, where both were timed."""
    ours = {row.task: row.median_s for row in rows}
    return [
        {
            "format": row.format, "threads": row.threads, "shape": row.shape.name, "library": row.library,
            "seconds": row.median_s, "ours_s": ours[row.task],
        }
        for row in libraries
        if row.task in ours
    ]  # fmt: skip


def _profile(path: Path | None) -> Profile | None:
    return Profile.load(path) if path is not None and path.exists() else None


def _write(path: Path, content: Mapping[str, Any]) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".blocking.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(content, file)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
