"""What a job leaves beside its conversations: power over time, how it ended; and where its energy is from."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

from trimtab.errors import TrimtabError
from trimtab.evaluate.device import events
from trimtab.evaluate.device.driver import Driver, Stopped
from trimtab.evaluate.device.plan import Device, Job, Plan
from trimtab.machine import probe
from trimtab.machine.power.energy import EnergyTrace
from trimtab.machine.power.model import PowerModel, default_model, read_model


def trace_of(
    device: Device, driver: Driver, bursts: Sequence[tuple[float, float]], say: Callable[[str], None]
) -> EnergyTrace | None:
    """What a meter has counted, moved to our clock where it is an outside one.

    Parameters
    ----------
    bursts : of the pulse that was given to align an outside meter by
    """
    if device.meter_record is None:
        return driver.power()
    from trimtab.machine.power.meters import aligned, read_record

    trace, shift = aligned(*read_record(device.meter_record), bursts)
    say(f"  the meter's clock is {-shift:.2f} s ahead of ours")
    return trace


def power_model(plan: Plan, job: Job, threads: int, say: Callable[[str], None]) -> PowerModel | None:
    """The last rung of the ladder; None where a model would say nothing about the device."""
    if job.device.driver in ("gpu", "replay") or job.engine.url is not None:
        return None
    if plan.power_model is not None:
        return read_model(plan.power_model)
    machine = probe.describe()
    try:
        return default_model(machine.processor, threads, machine.features)
    except TrimtabError as error:
        say(f"  no energy: {error.message}; {error.hint}")
        return None


def write_power(folder: Path, trace: EnergyTrace | None, model: PowerModel | None, driver: Driver) -> None:
    """Power over time: the meter's in `power.csv`, or in `power-modelled.csv` by the samples' core time."""
    if trace is not None:
        pairs = list(zip(trace.times_s, trace.joules, strict=True))
        steps = itertools.pairwise(pairs)
        measured = [(t, (counted - before) / (t - at)) for (at, before), (t, counted) in steps]
        _write_watts(folder / "power.csv", measured, trace.source)
    elif model is not None and (watcher := getattr(driver, "watcher", None)) is not None:
        modelled = []
        for before, after in itertools.pairwise(watcher.samples):
            busy = (after.core_seconds - before.core_seconds) / (after.time_s - before.time_s)
            # The bytes of single moments are not known: this is the part of time and cores alone.
            watts = model.idle_watts + model.joules_per_core_second * busy
            modelled.append((after.time_s, watts))
        _write_watts(folder / "power-modelled.csv", modelled, "modelled without memory traffic")


def write_job(
    folder: Path, stopped: Stopped, start_s: float | None, thermal: Sequence[tuple[float, float]]
) -> None:
    """How it ended; a replay reads this."""
    content = {
        "ending": stopped.ending,
        "peak_bytes": stopped.peak_bytes,
        "peak_file_bytes": stopped.peak_file_bytes,
        "start_s": start_s,
        "thermal": list(thermal),
    }
    events.write_json(folder / "job.json", content)


def _write_watts(path: Path, rows: Sequence[tuple[float, float]], source: str) -> None:
    with events.whole(path) as file:
        file.write("time_s,watts,source\n")
        file.writelines(f"{moment:.4f},{watts:.4f},{source}\n" for moment, watts in rows)
