"""From outcomes to rows: one a (device, engine, model, quantisation), every energy with its source.

Medians over turns, because one turn beside a busy neighbour says nothing. Energies carry
their source into the table; a modelled one is never set against a measured one.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from trimtab.errors import BadFile
from trimtab.evaluate.device.coordinator import Outcome
from trimtab.evaluate.device.driver import Turn
from trimtab.evaluate.device.experience import experience, wait_s
from trimtab.machine.power.energy import Energy, MixedEnergy, total

SCHEMA = "device/1"
_LONGEST_BYTES = 64 << 20


def summarised(outcome: Outcome) -> dict[str, Any]:
    """One row: plain JSON, times in seconds, memory in bytes, energy with its source."""
    turns = [turn for held in outcome.held for turn in held.turns]
    computed = [count for held in outcome.held for count in held.computed]
    answered = [turn for turn in turns if turn.token_times_s and not turn.failure]
    felt = experience(turns)
    closures = [held.closure for held in outcome.held]
    energy, energy_closures, per_token = _energy(outcome)
    stopped = outcome.stopped
    return {
        "device": outcome.job.device.name,
        "driver": outcome.job.device.driver,
        "emulation": outcome.emulation,
        "threads": outcome.threads,
        "limits": outcome.job.device.limits.model_dump(exclude_none=True),
        "engine": outcome.job.engine.label,
        "model": outcome.job.model,
        "quant": outcome.job.quant,
        "ending": stopped.ending,
        "problem": outcome.problem,
        "turns": len(turns),
        "ttft_s": _median(wait_s(turn) for turn in answered),
        "prefill_tokens_per_s": _median(
            count / event.duration_s
            for turn, count in zip(turns, computed, strict=True)
            if not turn.failure and count > 0 and (event := turn.event("prefill")) is not None
        ),
        "decode_tokens_per_s": _median(speed for turn in answered if (speed := decode_speed(turn))),
        "output_tokens": sum(turn.output_tokens for turn in turns),
        "prompt_mismatches": outcome.mismatches,
        "energy": None if energy is None else energy.as_json(),
        "energy_per_token": None if per_token is None else per_token.as_json(),
        "peak_bytes": stopped.peak_bytes,
        "peak_file_bytes": stopped.peak_file_bytes,
        "group_peak_bytes": stopped.group_peak_bytes,
        "cold_start_s": outcome.cold_s,
        "warm_start_s": outcome.warm_s,
        "sustained": None if outcome.trend is None else outcome.trend.as_json(),
        "highest_celsius": max((degrees for _, degrees in outcome.thermal), default=None),
        "accuracy": None if outcome.accuracy is None else outcome.accuracy["accuracy"],
        "perplexity": None if outcome.accuracy is None else outcome.accuracy["perplexity"],
        "experience": felt.score,
        "experience_parts": {
            "response": felt.response, "flow": felt.flow, "success": felt.success,
            "stalled_s": felt.stalled_s,
        },
        "event_closure": [min(closures), max(closures)] if closures else None,
        "energy_closure": [min(energy_closures), max(energy_closures)] if energy_closures else None,
    }  # fmt: skip


def decode_speed(turn: Turn) -> float | None:
    """Tokens a second after the first one."""
    event = turn.event("decode")
    if event is None or event.duration_s <= 0 or turn.output_tokens < 2:
        return None
    return (turn.output_tokens - 1) / event.duration_s


def section(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What the profile keeps of a run: every row, without the long parts."""
    return {"schema": SCHEMA, "rows": [summarised(outcome) for outcome in outcomes]}


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a run's `summary.json`.

    Raises
    ------
    BadFile : it is none
    """
    place = path / "summary.json" if path.is_dir() else path
    try:
        if place.stat().st_size > _LONGEST_BYTES:
            raise BadFile(place, "too large for a summary")
        content = json.loads(place.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise BadFile(place, f"its schema is {content['schema']!r}, {SCHEMA!r} is read")
        rows = content["rows"]
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise BadFile(place, "its rows are no table")
        for row in rows:
            cells(row)
    except BadFile:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadFile(
            place, f"no summary of a device run: {error}", hint="`trimtab measure device run` writes one"
        ) from None
    return rows


COLUMNS = (
    "DEVICE", "ENGINE", "MODEL", "QUANT", "ENDING", "TTFT ms", "PREFILL tok/s", "DECODE tok/s", "J/TOKEN",
    "PEAK MiB", "COLD s", "WARM s", "SUSTAINED %/min", "ACCURACY", "PERPLEXITY", "QoE",
)  # fmt: skip


def cells(row: dict[str, Any]) -> list[str]:
    """A row for people, in the order of COLUMNS."""
    trend = row["sustained"]
    per_token = None if row["energy_per_token"] is None else Energy.from_json(row["energy_per_token"])
    emulation = f" ({row['emulation']})" if row["emulation"] else ""
    return [
        str(row["device"]) + emulation,
        str(row["engine"]),
        str(row["model"]).rpartition("/")[2],
        str(row["quant"]),
        str(row["ending"]),
        _number(row["ttft_s"], 1000),
        _number(row["prefill_tokens_per_s"]),
        _number(row["decode_tokens_per_s"]),
        "–" if per_token is None else str(per_token),
        _number(row["peak_bytes"] or None, 2.0**-20),
        _number(row["cold_start_s"]),
        _number(row["warm_start_s"]),
        "–" if trend is None else f"{100 * trend['slope_per_minute']:+.2f}",
        "–" if row["accuracy"] is None else f"{100 * row['accuracy']:.1f} %",
        _number(row["perplexity"]),
        _number(row["experience"]),
    ]


def _energy(outcome: Outcome) -> tuple[Energy | None, list[float], Energy | None]:
    """All of it, how the parts closed a conversation, and joules a token put out."""
    accounts = [account for account in outcome.accounts if account is not None]
    try:
        energy = total(account.whole for account in accounts)
    except MixedEnergy:  # the meter's record ends inside the run: the sum would be of nothing
        return None, [], None
    tokens = sum(turn.output_tokens for held in outcome.held for turn in held.turns)
    per_token = energy / tokens if energy is not None and tokens else None
    return energy, [account.closure for account in accounts], per_token


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return statistics.median(found) if found else None


def _number(value: float | None, factor: float = 1.0) -> str:
    return (
        "–" if value is None else f"{value * factor:.3g}" if value * factor < 100 else f"{value * factor:.0f}"
    )
