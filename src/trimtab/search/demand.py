"""Demand laws: how much processor time a picture takes of each stage, from what is known before it comes.

Each stage's demand is a sum of its picture's features (size, bytes, crops, characters) with factors that are
not negative, fitted to a measured pipeline. The most a pipeline can take follows: no resource can be busy for
more than all of the time (utilisation law; arXiv 2403.12981 for what it means here).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trimtab.errors import NotMeasured

Features = Mapping[str, float]

# What a stage's work grows with, by its operation; nothing else can be blamed for it.
CAUSES = {
    "decode-image": ("one", "megabytes", "decoded_megapixels"),
    "fit-to-network": ("one", "decoded_megapixels", "tensor_megapixels"),
    "detect-text": ("one", "tensor_megapixels"),
    "whole-image": ("one",),
    "crop-boxes": ("one", "crops", "characters"),
    "text-direction": ("crops",),
    "recognise-text": ("crops", "characters"),
}


@dataclass(frozen=True, slots=True)
class Law:
    """One stage's demand.

    Parameters
    ----------
    factors : ms for each unit of a feature
    workers : runs of it at a time
    network : it runs a network
    """

    stage: str
    factors: Mapping[str, float]
    workers: int
    network: bool = False

    def ms(self, features: Features) -> float:
        """Processor time of a picture."""
        return sum(factor * features.get(name, 0.0) for name, factor in self.factors.items())


@dataclass(frozen=True, slots=True)
class Demand:
    """A pipeline's demand.

    Parameters
    ----------
    server_ms : of HTTP and everything else around the stages, for any picture
    usable_cores : processors that a saturated server really had, beside the generator that asked it
    """

    laws: tuple[Law, ...]
    server_ms: float
    cores: int
    usable_cores: float

    def ms(self, features: Features) -> float:
        """Processor time of a picture, all of it."""
        return self.server_ms + sum(law.ms(features) for law in self.laws)

    def knee(self, pictures: Sequence[tuple[float, Features]]) -> float:
        """Pictures a second that can be taken of a mix; (weight, features) of each kind."""
        weights = sum(weight for weight, _ in pictures)
        mean_ms = sum(weight * self.ms(features) for weight, features in pictures) / weights
        most = self.usable_cores * 1e3 / mean_ms
        for law in self.laws:
            stage_ms = sum(weight * law.ms(features) for weight, features in pictures) / weights
            if stage_ms > 0:
                most = min(most, law.workers * 1e3 / stage_ms)
        return most

    def networks_only(self, pictures: Sequence[tuple[float, Features]]) -> float:
        """The same, if only the networks had to run: what is promised when the rest is forgotten."""
        weights = sum(weight for weight, _ in pictures)
        network = [law for law in self.laws if law.network]
        mean_ms = sum(w * sum(law.ms(f) for law in network) for w, f in pictures) / weights
        return self.cores * 1e3 / mean_ms if mean_ms else float("inf")


def fitted(*sections: Mapping[str, Any]) -> Demand:
    """The demand of a measured pipeline; several sections are of one pipeline with different mixes.

    Raises
    ------
    NotMeasured : too few pictures were measured to tell the features apart
    """
    first = sections[0]
    cores = int(first["cores"])
    rows = [row for section in sections for row in section["pictures"] if row["cpu_ms"]]
    if len(rows) < 2:
        raise NotMeasured(
            f"the section `pipeline` knows {len(rows)} kinds of pictures; a law needs at least 2",
            "measure a mix with more: `trimtab measure pipeline ... --images mix.json`",
        )
    laws = []
    total = np.array([sum(row["cpu_ms"].values()) for row in rows])
    for stage in first["stages"]:
        title = stage["name"] or stage["op"]
        causes = CAUSES.get(stage["op"], ("one",))
        size = np.array([[row["features"].get(name, 0.0) for name in causes] for row in rows])
        spent = np.array([row["cpu_ms"].get(title, 0.0) for row in rows])
        # An error counts by its share of the picture's whole demand.
        factors = nonnegative(size / total[:, None], spent / total)
        network = stage["op"] in ("detect-text", "text-direction", "recognise-text")
        workers = int(stage["workers"]) or cores
        laws.append(Law(title, dict(zip(causes, factors.tolist(), strict=True)), workers, network))
    # With the generator beside it on the same processors, a saturated server has less than all of them.
    usable = min(float(cores), float(np.median([section["busy_cores"] for section in sections])))
    server_ms = float(np.mean([section["cpu_ms"]["server"] for section in sections]))
    return Demand(tuple(laws), server_ms, cores, usable)


def nonnegative(size: npt.NDArray[Any], spent: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Least squares with no negative factor; features that would have one are left out, the worst first."""
    kept = [index for index in range(size.shape[1]) if np.any(size[:, index])]
    factors = np.zeros(size.shape[1])
    while kept:
        found = np.linalg.lstsq(size[:, kept], spent, rcond=None)[0]
        if (found >= 0).all():
            factors[kept] = found
            break
        del kept[int(np.argmin(found))]
    return factors
