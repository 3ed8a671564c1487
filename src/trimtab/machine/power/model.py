"""The modelled rung of the energy ladder: E = P_idle t + a core-seconds + b DRAM bytes + c operations.

The coefficients are a data sheet's or the user's, never guessed in silence, and carry a band. The same form
can be fitted to measured energy (`refit`), which is how it is checked where a meter exists.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trimtab.errors import BadFile, NotMeasured, UsageError
from trimtab.machine.power.energy import MODELLED, Energy


class Activity(NamedTuple):
    """What a stretch of work did; activities of parts add up to the whole's."""

    seconds: float
    core_seconds: float
    dram_bytes: float
    operations: float


class PowerModel(BaseModel):
    """Coefficients of the model, with where they are from.

    `low` and `high` are factors on the result: the band that the figure is shown with.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    idle_watts: float = Field(ge=0, description="drawn by the used share of the machine at rest")
    joules_per_core_second: float = Field(ge=0, description="a busy core above its share at rest")
    joules_per_dram_byte: float = Field(ge=0)
    joules_per_operation: float = Field(ge=0)
    low: float = Field(gt=0, le=1)
    high: float = Field(ge=1)
    citation: str = Field(min_length=8, description="data sheet or measurement behind the numbers")

    def energy(self, activity: Activity) -> Energy:
        """What the model gives for a stretch of work, always `modelled`."""
        joules = (
            self.idle_watts * activity.seconds
            + self.joules_per_core_second * activity.core_seconds
            + self.joules_per_dram_byte * activity.dram_bytes
            + self.joules_per_operation * activity.operations
        )
        return Energy(joules, MODELLED, joules * self.low, joules * self.high)


# Cores and watts of a whole socket, by data sheet. A guest sees a few of its cores and has that share.
_SHEETS = (
    (r"EPYC.* 9[0-9]\w4|EPYC-Genoa", 96, 360, "AMD EPYC 9654 data sheet: 96 cores, default TDP 360 W"),
    (r"EPYC.* 9[0-9]\w5|EPYC-Turin", 128, 500, "AMD EPYC 9755 data sheet: 128 cores, default TDP 500 W"),
    (r"EPYC.* 7\w\w3|EPYC-Milan", 64, 280, "AMD EPYC 7763 data sheet: 64 cores, default TDP 280 W"),
    (r"Xeon.*(84[0-9]\d|Sapphire)", 56, 350, "Intel Xeon Platinum 8480+ data sheet: 56 cores, TDP 350 W"),
    (r"Xeon.*(83[0-9]\d|Icelake)", 40, 270, "Intel Xeon Platinum 8380 data sheet: 40 cores, TDP 270 W"),
)
# An EPYC whose number the hypervisor hides is told apart by what its cores can do.
_HIDDEN = ({"avx512_bf16"}, 0, 2)
_IDLE_SHARE = 0.3
# Horowitz, ISSCC 2014: 640 pJ for 32 bits from DRAM.
_DRAM_JOULES_PER_BYTE = 160e-12


def default_model(processor: str, cores: int, features: Sequence[str] = ()) -> PowerModel:
    """Coefficients for a known processor's share of `cores` cores.

    A share `_IDLE_SHARE` of the power counts as drawn at rest and the remainder as drawn by busy cores. Their
    arithmetic is inside that, so an operation costs nothing of its own; the band of minus 50 and plus 75 per
    cent covers the split, the clock, and the share of fans and power supplies.

    Raises
    ------
    NotMeasured : nothing is known about it
    """
    matches = [sheet[1:] for sheet in _SHEETS if re.search(sheet[0], processor, re.IGNORECASE)]
    if not matches and re.fullmatch(r"AMD EPYC( Processor)?", processor.strip()):
        wanted, newer, older = _HIDDEN
        matches = [_SHEETS[newer if wanted <= set(features) else older][1:]]
    if not matches:
        raise NotMeasured(
            f"no power figures are known for `{processor}`",
            "write a file of coefficients and name it with `--power-model`",
        )
    sheet_cores, watts, citation = matches[0]
    share = watts / sheet_cores
    return PowerModel(
        idle_watts=_IDLE_SHARE * share * cores,
        joules_per_core_second=(1 - _IDLE_SHARE) * share,
        joules_per_dram_byte=_DRAM_JOULES_PER_BYTE,
        joules_per_operation=0.0,
        low=0.5,
        high=1.75,
        citation=f"{citation}; DRAM: Horowitz, ISSCC 2014, 640 pJ for 32 bits",
    )


def read_model(path: Path) -> PowerModel:
    """Coefficients from a TOML file with the fields of `PowerModel`.

    Raises
    ------
    BadFile : it is no such file
    """
    import tomllib

    try:
        return PowerModel(**tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        problem = str(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            problem = f"`{'.'.join(map(str, first['loc']))}`: {first['msg']}"
        raise BadFile(
            path, f"no power model: {problem}", hint=f"its fields: {', '.join(PowerModel.model_fields)}"
        ) from error


def refit(activities: Sequence[Activity], measured: Sequence[Energy], citation: str) -> PowerModel:
    """The model's four coefficients from measured energy, by least squares of the relative error.

    No coefficient may be negative. Where two columns of the activities go together, such as bytes and
    seconds, their coefficients mean nothing one by one; the sum is right. The band is the largest relative
    error on the data.

    Parameters
    ----------
    measured : of each activity; none may be modelled

    Raises
    ------
    UsageError : fewer than four points, or an energy that is not positive
    MixedEnergy : a figure is modelled
    """
    import numpy as np

    joules = np.array([each.joules("measured") for each in measured], np.float64)
    rows = np.array(activities, np.float64).reshape(-1, 4)
    if len(rows) != len(joules) or len(rows) < 4:
        raise UsageError(f"a fit needs four measured points at least, not {min(len(rows), len(joules))}")
    if (joules <= 0).any():
        raise UsageError("a measured energy is not positive")
    relative = rows / joules[:, None]
    scale = np.abs(relative).max(axis=0)
    scale[scale == 0] = 1.0
    solution = _non_negative(relative / scale, np.ones(len(rows))) / scale
    errors = rows @ solution / joules
    return PowerModel(
        idle_watts=float(solution[0]),
        joules_per_core_second=float(solution[1]),
        joules_per_dram_byte=float(solution[2]),
        joules_per_operation=float(solution[3]),
        low=float(min(1.0, max(1e-6, 1 / max(errors.max(), 1.0)))),
        high=float(max(1.0, 1 / max(errors.min(), 1e-6))),
        citation=citation,
    )


def _non_negative(matrix: Any, wanted: Any) -> Any:
    """Least squares without negative coefficients; four columns, so every subset is tried."""
    import itertools

    import numpy as np

    best, least = np.zeros(matrix.shape[1]), float((wanted**2).sum())
    columns = range(matrix.shape[1])
    for size in range(1, matrix.shape[1] + 1):
        for chosen in itertools.combinations(columns, size):
            part, *_ = np.linalg.lstsq(matrix[:, chosen], wanted, rcond=None)
            if (part < 0).any():
                continue
            loss = float(((matrix[:, chosen] @ part - wanted) ** 2).sum())
            if loss < least * (1 - 1e-12):
                best, least = np.zeros(matrix.shape[1]), loss
                best[list(chosen)] = part
    return best
