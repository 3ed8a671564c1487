"""The instruction-cost table: what a mix of instructions takes, from the measured units of a profile.

Instructions of different kinds run side by side on a core, those of one kind after each other; a chain in
which each waits for the one before adds its latencies where nothing else can fill the gap. What the
instructions are
for is not known here. Method: arXiv 2402.13499 for the table, and the port model of instruction tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from trimtab.errors import UnknownName
from trimtab.machine.micro.rows import Row, from_dict

KINDS = {
    "multiply": ("fma_", "mul_f", "div_", "dpb", "dp8", "madd", "mul_i32"),
    "add": ("add_f", "i32_to", "f32_to", "f16_"),
    "move": ("shuffle", "permute", "u8_to", "add_i32", "popcnt_i32"),
    "load": ("load", "broadcast", "gather", "chase"),
    "store": ("store",),
    "scalar": ("add_i64", "mul_i64", "popcnt_i64"),
}
"""Instructions that share units, by the beginnings of their names."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Cycles of each instruction on one core, and how many of those a second has.

    Parameters
    ----------
    throughput, latency : label (`fma_f32 512`) -> cycles
    hz : of the core's clock with the number of cores that are meant
    """

    throughput: Mapping[str, float]
    latency: Mapping[str, float]
    hz: float

    @classmethod
    def of(cls, section: Mapping[str, Any], cores: int = 1) -> Costs:
        """From the data of a section `peak_units`; `cores` at work decide the clock alone."""
        rows = [from_dict(row) for row in section["rows"]]
        return cls(
            _cycles(row for row in rows if row.suite == "throughput" and row.cores == 1),
            _cycles(row for row in rows if row.suite == "latency"),
            section["frequency_hz"]["one" if cores == 1 else "all"],
        )

    def seconds(
        self,
        issued: Mapping[str, float],
        chained: Mapping[str, float] | None = None,
        *,
        loading_s: float = 0.0,
    ) -> float:
        """Least time of so many of each instruction, and of a chain that nothing overlaps.

        Parameters
        ----------
        loading_s : for which lines from behind the first cache keep its pipe busy, beside the loads counted

        Raises
        ------
        UnknownName : an instruction that was not measured here
        """
        busy: dict[str, float] = {"load": loading_s * self.hz}
        for label, count in issued.items():
            kind = kind_of(label)
            busy[kind] = busy.get(kind, 0.0) + count * self._of(self.throughput, label)
        waiting = sum(count * self._of(self.latency, label) for label, count in (chained or {}).items())
        return (max(busy.values()) + waiting) / self.hz

    @staticmethod
    def _of(table: Mapping[str, float], label: str) -> float:
        if label not in table:
            raise UnknownName(f"`{label}` was not measured here", f"there is {', '.join(table)}")
        return table[label]


def kind_of(label: str) -> str:
    """Which units an instruction takes.

    Raises
    ------
    UnknownName : none is known for that name
    """
    for kind, starts in KINDS.items():
        if label.startswith(starts):
            return kind
    raise UnknownName(
        f"no unit is known for `{label}`", f"names begin with {', '.join(sum(KINDS.values(), ()))}"
    )


def _cycles(rows: Iterable[Row]) -> dict[str, float]:
    return {
        row.label: row.cycles for row in rows if row.cycles is not None and row.detail.get("data") != "zeros"
    }
