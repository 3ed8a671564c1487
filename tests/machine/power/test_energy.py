"""Energy figures never lose their source, and a modelled one never meets a measured one."""

from __future__ import annotations

import itertools
import math
import operator
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import BadFile, NotMeasured, UsageError
from trimtab.machine.power import meters as power_meters
from trimtab.machine.power.energy import Energy, EnergyTrace, MixedEnergy, open_meter, total
from trimtab.machine.power.meters import Nvml, Rapl, aligned, read_record
from trimtab.machine.power.model import Activity, PowerModel, default_model, read_model, refit

MEASURED = [Energy(3.0, "measured:nvml"), Energy(2.0, "measured:rapl"), Energy(5.0, "measured:external")]
MODELLED = Energy(3.0, "modelled", 1.5, 6.0)


@pytest.mark.parametrize("measured", MEASURED)
@pytest.mark.parametrize("operation", [operator.add, operator.truediv, operator.lt])
def test_modelled_and_measured_never_mix(measured: Energy, operation: Callable[[Any, Any], Any]) -> None:
    for pair in ((measured, MODELLED), (MODELLED, measured), (measured, 3.0)):
        if operation is operator.truediv and pair[1] == 3.0:
            continue  # a share of a plain number is fine
        with pytest.raises((MixedEnergy, TypeError)):
            operation(*pair)
    with pytest.raises((MixedEnergy, TypeError)):
        3.0 + measured  # type: ignore[operator]
    with pytest.raises(TypeError):
        float(measured)  # type: ignore[arg-type]


def test_the_number_is_handed_out_only_under_its_own_name() -> None:
    assert MODELLED.joules("modelled") == 3.0
    with pytest.raises(MixedEnergy):
        MODELLED.joules("measured")
    with pytest.raises(MixedEnergy):
        MEASURED[0].joules("modelled")
    for energy in (*MEASURED, MODELLED):
        assert energy.source in str(energy)
        assert Energy.from_json(energy.as_json()) == energy
    with pytest.raises(UsageError):
        Energy(1.0, "guessed")


def test_sums_name_every_meter_and_keep_the_band() -> None:
    both = MEASURED[0] + MEASURED[1]
    assert both.source == "measured:nvml+rapl"
    assert both.joules("measured") == 5.0
    assert (MODELLED + MODELLED).band("modelled") == (3.0, 12.0)
    assert MEASURED[0] / MEASURED[1] == 1.5
    assert (MODELLED / 2).as_json() == {"joules": 1.5, "low": 0.75, "high": 3.0, "source": "modelled"}
    assert total([]) is None
    with pytest.raises(MixedEnergy):
        total([*MEASURED, MODELLED])


@given(
    st.lists(st.tuples(st.floats(0.001, 1), st.floats(0, 500)), min_size=2, max_size=40),
    st.lists(st.floats(0, 1), max_size=12),
)
def test_windows_that_tile_a_span_add_up_to_it(steps: list[tuple[float, float]], cuts: list[float]) -> None:
    """Each part is a difference of the same interpolated counter, so their sum telescopes to rounding."""
    times, watts, now = [], [], 0.0
    for step, power in steps:
        now += step
        times.append(now)
        watts.append(power)
    trace = EnergyTrace.of_power(times, watts, "measured:external")
    edges = sorted([times[0], times[-1], *(times[0] + cut * (times[-1] - times[0]) for cut in cuts)])
    whole = trace.between(times[0], times[-1]).joules("measured")
    parts = [trace.between(a, b).joules("measured") for a, b in itertools.pairwise(edges)]
    assert math.fsum(parts) == pytest.approx(whole, abs=1e-9 * (1 + whole))
    area = sum((b - a) * (p + q) / 2 for a, b, p, q in zip(times, times[1:], watts, watts[1:], strict=False))
    assert whole == pytest.approx(area, abs=1e-9 * (1 + area))


def test_a_trace_extrapolates_nothing() -> None:
    trace = EnergyTrace([0.0, 1.0, 2.0], [0.0, 10.0, 30.0], "measured:rapl")
    assert trace.between(0.5, 1.5).joules("measured") == pytest.approx(15.0)
    for window in ((-0.1, 1.0), (1.0, 2.1)):
        with pytest.raises(UsageError):
            trace.between(*window)
    with pytest.raises(UsageError):
        EnergyTrace([0.0, 0.0], [0.0, 1.0], "measured:rapl")


def test_rapl_counts_packages_once_and_survives_running_over(tmp_path: Path) -> None:
    assert Rapl.open(tmp_path) is None
    for name, value in (("intel-rapl:0", 900), ("intel-rapl:1", 100), ("intel-rapl:0:0", 50)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{value}\n")
        (tmp_path / name / "max_energy_range_uj").write_text("1000\n")
    meter = Rapl.open(tmp_path)
    assert meter is not None
    assert meter.read() == 0.0
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("200\n")  # over the top: 100 to the end, then 200
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("150\n")
    (tmp_path / "intel-rapl:0:0" / "energy_uj").write_text("999\n")
    assert meter.read() == pytest.approx(350e-6)


class _Library:
    """Two GPUs, as `pynvml` shows them."""

    NVML_TEMPERATURE_GPU = 0

    def __init__(self, broken: bool = False) -> None:
        self.energy, self.broken, self.open = [1000, 5000], broken, 0

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetTotalEnergyConsumption(self, index: int) -> int:
        if self.broken:
            raise RuntimeError("not supported")
        return self.energy[index]

    def nvmlDeviceGetTemperature(self, index: int, kind: int) -> int:
        return 40 + index


def test_nvml_sums_the_gpus_and_says_when_there_is_no_counter() -> None:
    library = _Library()
    meter = Nvml.open(library)
    assert meter is not None
    before = meter.read()
    library.energy = [3000, 6500]
    assert meter.read() - before == pytest.approx(3.5)
    assert max(meter.temperatures()) == 41
    meter.close()
    assert library.open == 0
    assert Nvml.open(_Library(broken=True)) is None


def test_the_ladder_takes_the_gpu_first(monkeypatch: pytest.MonkeyPatch) -> None:
    rapl, nvml = Rapl([]), Nvml(_Library(), [0])
    monkeypatch.setattr(power_meters.Rapl, "open", classmethod(lambda cls: rapl))
    monkeypatch.setattr(power_meters.Nvml, "open", classmethod(lambda cls: nvml))
    assert open_meter() is rapl
    assert open_meter(gpu=True) is nvml
    monkeypatch.setattr(power_meters.Nvml, "open", classmethod(lambda cls: None))
    assert open_meter(gpu=True) is rapl


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "time_s"),
        ("time_s,milliamps\n0,1\n1,1\n", "volts"),
        ("time_s,watts\n0,1\n", "fewer"),
        ("time_s,watts\n0,1\n0,1\n", "rise"),
        ("time_s,watts\n0,1\n1,nan\n", "finite"),
        ("time_s,watts\n0,1\n1\n", "line 3"),
        ("time_s,heat\n0,1\n1,1\n", "watts"),
    ],
)
def test_a_meters_record_is_refused(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "power.csv"
    path.write_text(text)
    with pytest.raises(BadFile, match=says):
        read_record(path)


@given(st.binary(max_size=200))
def test_no_file_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("power") / "power.csv"
    path.write_bytes(b"time_s,watts\n" + content)
    try:
        times, watts = read_record(path)
    except BadFile:
        return
    assert len(times) == len(watts) >= 2


def test_current_times_voltage_is_power(tmp_path: Path) -> None:
    path = tmp_path / "power.csv"
    path.write_text("time_s, volts, milliamps\n0,5,100\n1,5,300\n")
    assert read_record(path) == ([0.0, 1.0], [0.5, 1.5])


@given(st.floats(-50, 50), st.integers(0, 2**32))
def test_a_pulse_aligns_the_clocks(shift: float, seed: int) -> None:
    """The record has 20 samples a second, so its clock is found to within two of them."""
    draw = random.Random(seed)
    bursts, now = [], 100.0
    for index, length in enumerate(power_meters.PULSE_S):
        if index % 2 == 0:
            bursts.append((now, now + length))
        now += length
    ours = [80 + step / 20 for step in range(900)]
    busy = [any(a <= t < b for a, b in bursts) or 110 < t < 120 for t in ours]
    watts = [20.0 + 15 * on + draw.gauss(0, 1) for on in busy]
    trace, found = aligned([t - shift for t in ours], watts, bursts)
    assert found == pytest.approx(shift, abs=0.15)
    assert trace.source == "measured:external"


def test_a_record_without_the_pulse_is_refused() -> None:
    draw = random.Random(1)
    times = [step / 10 for step in range(600)]
    with pytest.raises(UsageError, match="stand out"):
        aligned(times, [draw.gauss(20, 1) for _ in times], [(5.0, 6.0), (6.5, 7.5), (9.0, 9.5)])


TRUE = {
    "idle_watts": 60.0, "joules_per_core_second": 40.0, "joules_per_dram_byte": 5e-11,
    "joules_per_operation": 4e-12,
}  # fmt: skip


def _sessions(seed: int, count: int) -> list[Activity]:
    """Batches of 1 to 64 at 16, 8 and 4 bits on something like a GPU: bytes and operations vary apart."""
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        seconds, batch, bits = draw.uniform(5, 60), draw.choice([1, 4, 16, 64]), draw.choice([4, 8, 16])
        steps = seconds / draw.uniform(0.002, 0.02)
        found.append(
            Activity(seconds, seconds * draw.uniform(0.2, 1.0), steps * 2e9 * bits / 16, steps * batch * 4e9)
        )
    return found


@pytest.mark.parametrize("seed", range(5))
def test_the_models_form_is_found_again(seed: int) -> None:
    """With 5 % of noise on every figure, held-out energy is predicted within 15 % (the brief's bound)."""
    draw = random.Random(seed)
    truth = PowerModel(**TRUE, low=1, high=1, citation="made up for this test")
    activities = _sessions(seed, 60)
    exact = [truth.energy(activity).joules("modelled") for activity in activities]
    seen = [Energy(joules * draw.gauss(1, 0.05), "measured:nvml") for joules in exact]
    fitted = refit(activities[:40], seen[:40], "fit of this test")
    for activity, joules in zip(activities[40:], exact[40:], strict=True):
        assert fitted.energy(activity).joules("modelled") == pytest.approx(joules, rel=0.15)
    assert fitted.low <= 1 <= fitted.high
    clean = [Energy(joules, "measured:nvml") for joules in exact]
    again = refit(activities, clean, "fit of this test")
    for name, value in TRUE.items():
        assert getattr(again, name) == pytest.approx(value, rel=1e-6)


def test_a_fit_never_takes_modelled_figures_nor_negative_coefficients() -> None:
    activities = _sessions(3, 12)
    with pytest.raises(MixedEnergy):
        refit(activities, [MODELLED] * 12, "never used")
    with pytest.raises(UsageError):
        refit(activities[:3], [MEASURED[0]] * 3, "never used")
    falling = [Energy(1e4 / a.seconds, "measured:nvml") for a in activities]
    fitted = refit(activities, falling, "a meter that runs backwards")
    assert min(getattr(fitted, name) for name in TRUE) >= 0


def test_default_coefficients_are_cited_or_refused(tmp_path: Path) -> None:
    model = default_model("AMD EPYC 9654 96-Core Processor", 2)
    assert "data sheet" in model.citation
    idle = model.energy(Activity(10, 0, 0, 0))
    busy = model.energy(Activity(10, 20, 1e11, 1e12))
    assert idle < busy
    # Two busy cores of 96 at 360 W may not take more than their share of it, memory aside.
    assert busy.joules("modelled") == pytest.approx(10 * 2 * 360 / 96 + 1e11 * 160e-12)
    hidden = default_model("AMD EPYC", 2, ["avx512_bf16"])
    assert hidden == model
    with pytest.raises(NotMeasured, match="no power figures"):
        default_model("Some Other Processor", 2)
    path = tmp_path / "power.toml"
    path.write_text(
        "\n".join(f"{name} = {value}" for name, value in model.model_dump().items() if name != "citation")
    )
    with pytest.raises(BadFile, match="citation"):
        read_model(path)
    path.write_text(path.read_text() + '\ncitation = "own wall meter, 2026"\n')
    assert read_model(path).idle_watts == model.idle_watts
    path.write_text("idle_watts = -1")
    with pytest.raises(BadFile):
        read_model(path)
