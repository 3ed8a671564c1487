"""Times a model on an engine, and fits what any request would take: the work of `trimtab measure llm`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trimtab.errors import NotMeasured
from trimtab.evaluate.calibration import MOST_RUNS, OUTPUTS, QUICK_OUTPUTS, Calibration
from trimtab.evaluate.targets import Target
from trimtab.machine import probe
from trimtab.machine import profile as profiles
from trimtab.machine.requests import profile as request_profile
from trimtab.machine.requests.model import RequestModel
from trimtab.machine.requests.prior import ceilings_of, prior
from trimtab.machine.roofline import Ceilings

QUICK_S = 12.0


def measure(
    target: Target, *, batches: Sequence[int] = (1,), budget_s: float = 300.0, quick: bool = False,
    seed: int = 0, say: Callable[[str], None] = lambda line: None, save_to: Path | None = None,
    save: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Calibrate a target, and keep the fit in the machine profile.

    Parameters
    ----------
    quick : at most 12 s and short outputs
    save : write section `llm` of the profile at `save_to`, by default the user's

    Returns
    -------
    `fit` (a `RequestModel` as JSON, of the minimum over trials), `usual` (the same of the median), and what
    they should be judged by: runs, drift, modes, samples, the prior
    """
    before = prior_of(target, batches)
    with profiles.watched() as watch:
        calibration = Calibration(
            target, batches=batches, budget_s=min(budget_s, QUICK_S) if quick else budget_s, seed=seed,
            outputs=QUICK_OUTPUTS if quick else OUTPUTS, most_runs=MOST_RUNS, prior=before,
        )  # fmt: skip
        warm_up(target, calibration)
        fitted = calibration.finish(say)
        told = {**calibration.report(), "usual": calibration.fit("median").to_json()}
        if before is not None:
            told["prior"] = before.to_json()
        stamp = watch.section(told)
    place = request_profile.save(fitted, stamp, save_to) if save else None
    return {**told, "fit": fitted.to_json(), "noisy": stamp.noisy, "profile": place and str(place)}


def warm_up(target: Target, calibration: Calibration) -> None:
    """Touch every size of step once: pages, caches, and what an engine compiles at the first call."""
    for prompt, output in ((8, 4), (600, 4)):
        if prompt + output < target.context:
            target.run([calibration.tokens(prompt)], output)


def prior_of(target: Target, batches: Sequence[int] = (1,)) -> RequestModel | None:
    """What the machine's ceilings allow: from its profile, else from a probe of a second; None for a URL."""
    shape = target.shape()
    if shape is None:
        return None
    threads = int(target.settings.get("threads") or probe.describe().usable)
    try:
        ceilings = Ceilings.of(profiles.Profile.load(), threads, allow_noisy=True)
    except NotMeasured:
        ceilings = ceilings_of(probe.measure(threads, 0.2))
    return prior(shape, ceilings, batches=batches, model=target.model, engine=target.engine)


def usual(told: dict[str, Any]) -> RequestModel:
    """The fit of the medians, out of what `measure` returned or a profile holds."""
    return RequestModel.from_json(told["usual"])
