"""The measured rungs of the energy ladder: NVML's and RAPL's counters, and a record of an outside meter.

Each says None or refuses when it cannot measure; none of them estimates.
"""

from __future__ import annotations

import csv
import importlib
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from trimtab.errors import BadFile, UsageError
from trimtab.machine.power.energy import EnergyTrace

POWERCAP = Path("/sys/class/powercap")
_MOST_ROWS = 10_000_000


class Rapl:
    """The processor packages' energy counters that Linux shows under `powercap`.

    The counters run over every few minutes; read it more often than that.
    """

    source = "measured:rapl"

    def __init__(self, zones: Sequence[tuple[Path, float]]) -> None:
        self._zones = list(zones)
        self._last = [_micro(path) for path, _ in self._zones]
        self._sum = 0.0

    @classmethod
    def open(cls, root: Path = POWERCAP) -> Rapl | None:
        """The packages' counters, None where there are none or only root may read them."""
        zones = []
        # `intel-rapl:0` is a package, `intel-rapl:0:0` a part of it that would be counted twice.
        for folder in sorted(root.glob("*-rapl:*")):
            if folder.name.count(":") != 1:
                continue
            try:
                _micro(folder / "energy_uj")
                zones.append((folder / "energy_uj", _micro(folder / "max_energy_range_uj")))
            except (OSError, ValueError):
                return None
        return cls(zones) if zones else None

    def read(self) -> float:
        for index, (path, wrap) in enumerate(self._zones):
            now = _micro(path)
            step = now - self._last[index]
            self._sum += step if step >= 0 else step + wrap
            self._last[index] = now
        return self._sum / 1e6

    def close(self) -> None:
        """Nothing is held."""


class Nvml:
    """The total energy counter of NVIDIA GPUs (Volta and later), in steps of a millijoule."""

    source = "measured:nvml"

    def __init__(self, library: Any, devices: Sequence[Any]) -> None:
        self._library, self._devices = library, list(devices)

    @classmethod
    def open(cls, library: Any = None) -> Nvml | None:
        """All GPUs of this machine; None without any, or where one has no such counter.

        Parameters
        ----------
        library : stands in for the `pynvml` module
        """
        if library is None:
            try:
                library = importlib.import_module("pynvml")
            except ImportError:
                return None
        try:
            library.nvmlInit()
        except Exception:  # the library has one error class a cause, and a driver may be missing
            return None
        try:
            devices = [library.nvmlDeviceGetHandleByIndex(i) for i in range(library.nvmlDeviceGetCount())]
            for device in devices:
                library.nvmlDeviceGetTotalEnergyConsumption(device)
        except Exception:
            devices = []
        if not devices:
            library.nvmlShutdown()
            return None
        return cls(library, devices)

    def read(self) -> float:
        counts = [self._library.nvmlDeviceGetTotalEnergyConsumption(device) for device in self._devices]
        return float(sum(counts)) / 1e3

    def temperatures(self) -> list[float]:
        """Degrees Celsius of each GPU's chip."""
        kind = self._library.NVML_TEMPERATURE_GPU
        return [float(self._library.nvmlDeviceGetTemperature(device, kind)) for device in self._devices]

    def close(self) -> None:
        self._library.nvmlShutdown()


def read_record(path: Path) -> tuple[list[float], list[float]]:
    """A meter's CSV: times in seconds and watts.

    The columns are `time_s` with `watts`, or with `volts` and one of `amps` or `milliamps`. Charge without a
    voltage is no energy, so a record of currents alone is refused.

    Raises
    ------
    BadFile : it is no such table, a number is none, or the times do not rise
    """
    times: list[float] = []
    watts: list[float] = []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            names = {name.strip() for name in rows.fieldnames or ()}
            power = _power_of(path, names)
            for number, row in enumerate(rows, 2):
                clean = {str(key).strip(): value for key, value in row.items()}
                try:
                    moment, value = float(clean["time_s"]), power(clean)
                except (KeyError, TypeError, ValueError):
                    raise BadFile(path, f"line {number} has no numbers where they belong") from None
                if not math.isfinite(moment) or not math.isfinite(value):
                    raise BadFile(path, f"line {number} has a number that is not finite")
                if times and moment <= times[-1]:
                    raise BadFile(path, f"line {number}: the time does not rise")
                times.append(moment)
                watts.append(value)
                if number > _MOST_ROWS:
                    raise BadFile(path, f"more than {_MOST_ROWS} samples")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadFile(path, f"no readable record: {error}") from error
    if len(times) < 2:
        raise BadFile(path, "fewer than two samples")
    return times, watts


def _product(column: str, unit: float, row: dict[str, Any]) -> float:
    return float(row["volts"]) * float(row[column]) * unit


def _power_of(path: Path, names: set[str]) -> Callable[[dict[str, Any]], float]:
    if "time_s" not in names:
        raise BadFile(path, "no column `time_s`", hint="columns: time_s, watts; or time_s, volts, amps")
    if "watts" in names:
        return lambda row: float(row["watts"])
    for column, unit in (("amps", 1.0), ("milliamps", 1e-3)):
        if column in names:
            if "volts" not in names:
                raise BadFile(
                    path, f"`{column}` without `volts` is charge, not energy", hint="add a column volts"
                )
            return partial(_product, column, unit)
    raise BadFile(path, "no column `watts`, `amps` or `milliamps`")


def aligned(
    times_s: Sequence[float], watts: Sequence[float], pulse_s: Sequence[tuple[float, float]],
    most_shift_s: float = 3600.0,
) -> tuple[EnergyTrace, float]:  # fmt: skip
    """A meter's record moved onto our clock, by a pulse of load that both have seen.

    The pulse's bursts are laid over the record at every shift; where power during bursts stands out most from
    power between them, the clocks agree.

    Parameters
    ----------
    times_s, watts : on the meter's clock
    pulse_s : the bursts on our clock, (start, end), of uneven lengths so that only one shift fits
    most_shift_s : clocks further apart than this are refused

    Returns
    -------
    the trace on our clock, and the shift in seconds that was added to the meter's times

    Raises
    ------
    UsageError : the record is too short, or no pulse stands out from its noise
    """
    import numpy as np

    start, end = pulse_s[0][0], pulse_s[-1][1]
    step = max(1e-3, min(high - low for low, high in pulse_s) / 8)
    grid = np.arange(times_s[0], times_s[-1], step)
    power = np.interp(grid, times_s, watts)
    margin = step * 8
    shape = np.zeros(int(np.ceil((end - start + 2 * margin) / step)))
    moments = start - margin + step * np.arange(len(shape))
    for low, high in pulse_s:
        shape[(moments >= low) & (moments < high)] = 1.0
    if len(grid) < len(shape):
        raise UsageError("the power record is shorter than the synchronising pulse")
    centred = shape - shape.mean()
    score = np.correlate(power, centred, "valid")
    # Normalised by the spread inside the window: a long plateau must not win over the pulse.
    sums = np.concatenate([[0.0], np.cumsum(power)])
    squares = np.concatenate([[0.0], np.cumsum(power**2)])
    width = len(shape)
    mean = (sums[width:] - sums[:-width]) / width
    variance = np.maximum((squares[width:] - squares[:-width]) / width - mean**2, 1e-18)
    likeness = score / (np.sqrt(variance) * np.sqrt((centred**2).sum() * width))
    best = int(np.argmax(likeness))
    if likeness[best] < 0.7:
        raise UsageError(
            f"the synchronising pulse does not stand out in the power record ({likeness[best]:.2f} of 1)",
            "let the meter run from before the first load to after the last, ten samples a second or more",
        )
    shift = float(start - margin - grid[best])
    if abs(shift) > most_shift_s:
        raise UsageError(f"the clocks are {shift:.0f} s apart, more than {most_shift_s:.0f} s")
    moved = [moment + shift for moment in times_s]
    return EnergyTrace.of_power(moved, watts, "measured:external"), shift


PULSE_S = (0.6, 0.4, 1.2, 0.4, 0.6, 1.0, 1.8)
"""Load and rest by turns; uneven, so that a shifted copy does not fit."""


def pulse(
    threads: int, clock: Callable[[], float] = time.monotonic, lengths_s: Sequence[float] = PULSE_S
) -> list[tuple[float, float]]:
    """Make the processors work in bursts that an outside meter will show; returns them on `clock`."""
    import threading

    bursts: list[tuple[float, float]] = []
    for index, length in enumerate(lengths_s):
        begin = clock()
        if index % 2:
            time.sleep(length)
            continue
        workers = [threading.Thread(target=_burn, args=(begin + length, clock)) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        bursts.append((begin, clock()))
    return bursts


def _burn(until: float, clock: Callable[[], float]) -> None:
    import hashlib

    block = bytes(1 << 20)  # hashing large blocks lets other threads run
    while clock() < until:
        hashlib.sha256(block).digest()


def _micro(path: Path) -> float:
    return float(path.read_text(encoding="ascii"))
