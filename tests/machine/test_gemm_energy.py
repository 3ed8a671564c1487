"""Power from a meter, and energy as power times time, of the meter's own kind."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.machine.gemm.energy import Draw, Power, draw
from trimtab.machine.gemm.shapes import Shape

POSITIVE = st.floats(0.1, 100)


@given(POSITIVE, POSITIVE, POSITIVE, st.integers(0, 99))
def test_coefficients_are_found_again(idle: float, op: float, byte: float, seed: int) -> None:
    chance = random.Random(seed)
    draws = []
    for _ in range(8):
        ops, moved = chance.uniform(0, 1e12), chance.uniform(0, 1e11)
        draws.append(Draw(idle + op * 1e-11 * ops + byte * 1e-10 * moved, ops, moved))
    power = Power.fit(draws, "measured:rapl")
    for each in draws:
        assert power.watts(each.ops_per_s, each.bytes_per_s) == pytest.approx(each.watts, rel=1e-6)
    assert Power.from_json(power.to_json()) == power


@given(POSITIVE, st.floats(1e-6, 10))
def test_energy_is_power_times_time(idle: float, seconds: float) -> None:
    power = Power(idle, 2e-11, 1e-10, "measured:rapl")
    shape = Shape(64, 512, 512)
    energy = power.energy("int8", shape, seconds)
    assert energy.source == "measured:rapl"
    moved = 512 * 512 + 512 * 4 + 64 * (512 + 4 * 512)
    watts = power.watts(shape.ops / seconds, moved / seconds)
    assert energy.joules("measured") == pytest.approx(watts * seconds)


def test_a_meter_is_read_around_the_work() -> None:
    class Meter:
        source = "measured:external"
        now = 0.0

        def read(self) -> float:
            return 30.0 * self.now

        def close(self) -> None: ...

    meter = Meter()

    def work() -> tuple[float, float]:
        meter.now += 0.25
        return 100.0, 10.0

    found = draw(meter, work, clock=lambda: meter.now)
    assert found == Draw(watts=30.0, ops_per_s=400.0, bytes_per_s=40.0)
    with pytest.raises(ValueError, match="three"):
        Power.fit([found], meter.source)
