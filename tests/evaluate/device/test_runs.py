"""Whole runs with an engine that has nothing behind it: events, endings, logs, replay, the table."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import BadFile
from trimtab.evaluate.device import coordinator, events, summary
from trimtab.evaluate.device.driver import EngineFailed, Launch, Question
from trimtab.evaluate.device.local import Local
from trimtab.evaluate.device.plan import Device, EngineChoice, Limits, ModelChoice, Plan, Sustained
from trimtab.evaluate.device.replay import read_turns
from trimtab.machine.power.meters import read_record

FAKE = Path(__file__).with_name("fake_engine.py")


def plan_of(model: Path, how: str = "", **more: Any) -> Plan:
    command = (sys.executable, str(FAKE), "{port}", how)
    settings: dict[str, Any] = {
        "engines": (EngineChoice(name="openai", title="fake", command=command),),
        "models": (ModelChoice(model=str(model)),),
        "conversations": (0, 2), "turns": 2, "repetitions": 1, "max_tokens": 8, "settle_s": 0,
    }  # fmt: skip
    return Plan(**(settings | more))


@pytest.fixture
def model(default_model: Path) -> Path:
    """Its tokenizer and template are used, its weights never."""
    return default_model


def quiet(line: str) -> None:
    """Nobody listens."""


def test_a_run_leaves_logs_that_add_up(model: Path, tmp_path: Path) -> None:
    (outcome,) = coordinator.run(plan_of(model, "slow"), tmp_path, quiet)
    row = summary.summarised(outcome)
    assert row["ending"] == "ok"
    assert row["turns"] == 4
    assert 0 < row["decode_tokens_per_s"] < 150  # 20 ms between pieces, fewer seen by a client held up
    assert row["peak_bytes"] >= row["peak_file_bytes"] > 0
    assert row["cold_start_s"] > 0
    assert 0.97 <= row["event_closure"][0] <= row["event_closure"][1] <= 1.03
    folder = tmp_path / outcome.job.folder
    assert len(list(folder.glob("events-*.csv"))) == len(list(folder.glob("conversation-*.json"))) == 2
    with next(folder.glob("events-*.csv")).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == events.COLUMNS
    assert [each["event"] for each in rows[:6]] == [
        "compose", "request", "prefill", "decode", "finish", "record"
    ]  # fmt: skip
    starts = [float(each["start_s"]) for each in rows]
    assert starts == sorted(starts)
    assert (folder / "timeseries.csv").exists()
    assert json.loads((folder / "job.json").read_text())["ending"] == "ok"


def test_energy_is_modelled_by_a_users_file_and_says_so(model: Path, tmp_path: Path) -> None:
    coefficients = tmp_path / "power.toml"
    coefficients.write_text(
        "idle_watts = 5\njoules_per_core_second = 3\njoules_per_dram_byte = 1e-10\n"
        'joules_per_operation = 0\nlow = 0.5\nhigh = 2\ncitation = "made up for a test"\n'
    )
    (outcome,) = coordinator.run(plan_of(model, power_model=coefficients), tmp_path / "out", quiet)
    row = summary.summarised(outcome)
    assert row["energy"]["source"] == row["energy_per_token"]["source"] == "modelled"
    assert "modelled" in summary.cells(row)[summary.COLUMNS.index("J/TOKEN")]
    assert row["energy_closure"] is not None
    power = tmp_path / "out" / outcome.job.folder / "power-modelled.csv"
    assert "modelled" in power.read_text()
    assert not power.with_name("power.csv").exists()


@pytest.mark.parametrize(
    ("how", "ending", "turns"), [("refuses", "refused", 0), ("dies", "crashed", 2), ("bad", "crashed", 0)]
)
def test_an_engine_that_fails_is_a_result(
    how: str, ending: str, turns: int, model: Path, tmp_path: Path
) -> None:
    # `dies` counts the questions of one process: its third is the second conversation's first.
    (outcome,) = coordinator.run(plan_of(model, how), tmp_path, quiet)
    row = summary.summarised(outcome)
    assert row["ending"] == ending
    assert row["problem"]
    assert sum(not turn.failure for held in outcome.held for turn in held.turns) == turns
    assert summary.cells(row)[4] == ending


def test_running_out_of_memory_is_told_from_a_crash(model: Path, tmp_path: Path) -> None:
    small = Device(name="small", driver="cgroup", limits=Limits(memory_bytes=150 << 20))
    (outcome,) = coordinator.run(plan_of(model, "hungry", devices=(small,), turns=5), tmp_path, quiet)
    if "control group" not in outcome.emulation:
        pytest.skip("no control group can be made here")
    assert outcome.stopped.ending == "out of memory"
    assert "emulated limit" in outcome.emulation
    assert (outcome.stopped.group_peak_bytes or 0) <= 150 << 20
    failed = [turn for held in outcome.held for turn in held.turns if turn.failure]
    assert failed


def test_a_throttle_curve_is_replayed_and_called_simulated(model: Path, tmp_path: Path) -> None:
    curve = tmp_path / "curve.csv"
    curve.write_text("time_s,cpus\n0,1\n0.1,0.5\n")
    device = Device(name="hot", driver="cgroup", throttle=curve)
    plan = plan_of(model, "slow", devices=(device,))
    driver = coordinator.load_driver(device)
    try:
        driver.prepare()
        if "control group" not in driver.emulation:
            pytest.skip("no control group can be made here")
        job = next(iter(plan.jobs()))
        session = driver.start(coordinator.launch(job, model, threads=1, context=64))
        session.ask(Question([{"role": "user", "content": "a"}], 20, forced=True))
        names = [event.name for event in driver.events()]
    finally:
        driver.stop()
        driver.discard()
    assert names == ["simulated throttle 1", "simulated throttle 0.5"]
    assert "simulated throttle" in driver.emulation


def test_a_sustained_run_has_windows_and_steal(model: Path, tmp_path: Path) -> None:
    plan = plan_of(
        model, "slow", conversations=(0, 1), turns=1, sustained=Sustained(seconds=1.5, window_s=0.3)
    )
    (outcome,) = coordinator.run(plan, tmp_path, quiet)
    trend = outcome.trend
    assert trend is not None
    assert len(trend.tokens_per_s) == len(trend.steal) == 5
    # A client that was held up finds several pieces at once: only the mean is bounded by 20 ms a piece.
    assert 0 < sum(trend.tokens_per_s) / 5 < 51


def test_a_run_replays_to_the_same_figures(model: Path, tmp_path: Path) -> None:
    plan = plan_of(model, "slow")
    (first,) = coordinator.run(plan, tmp_path / "first", quiet)
    record = tmp_path / "first" / first.job.folder
    start = min(held.start_s for held in first.held) - 1
    end = max(held.start_s + held.wall_s for held in first.held) + 1
    (record / "power.csv").write_text(f"time_s,watts\n{start},10\n{end},10\n")
    device = Device(name="recorded", driver="replay", record=record)
    (again,) = coordinator.run(plan_of(model, devices=(device,)), tmp_path / "again", quiet)
    one, other = summary.summarised(first), summary.summarised(again)
    for key in ("turns", "ttft_s", "decode_tokens_per_s", "output_tokens", "experience", "ending"):
        assert one[key] == other[key], key
    assert other["emulation"] == "replayed record"
    assert read_turns(record) == [turn for held in first.held for turn in held.turns]


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "conversation-1.json").write_text('{"turns": [{"events": [{}]}]}')
    with pytest.raises(BadFile):
        read_turns(tmp_path)


@given(st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda inner: (
    st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["schema", "rows", "sustained", "energy", "device"]), inner, max_size=4)
)))  # fmt: skip
def test_no_summary_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, content: Any) -> None:
    path = tmp_path_factory.mktemp("summary") / "summary.json"
    if isinstance(content, dict):
        content |= {"schema": summary.SCHEMA}
    path.write_text(json.dumps(content))
    try:
        rows = summary.read_rows(path)
    except BadFile:
        return
    assert rows == content["rows"]


def test_an_engine_that_never_answers_is_given_up(tmp_path: Path) -> None:
    driver = Local(Device(name="here"))
    launch = Launch("sleeper", tmp_path, (sys.executable, "-c", "import time; time.sleep(60)"), timeout_s=0.3)
    driver.prepare()
    try:
        with pytest.raises(EngineFailed, match="does not answer"):
            driver.start(launch)
    finally:
        driver.stop()
        driver.discard()


@pytest.mark.slow
def test_an_outside_meter_is_aligned_and_measured(model: Path, tmp_path: Path) -> None:
    """The meter's file is written while the run goes on; its clock is 1000 s behind ours."""
    import threading
    import time

    path, end = tmp_path / "meter.csv", threading.Event()
    path.write_text("time_s,watts\n")

    def meter() -> None:
        used = time.process_time()
        with path.open("a") as file:
            while not end.wait(0.05):
                now = time.process_time()
                file.write(f"{time.monotonic() - 1000},{5 + 20 * (now - used) / 0.05}\n")
                file.flush()
                used = now

    recorder = threading.Thread(target=meter)
    recorder.start()
    device = Device(name="metered", threads=1, meter_record=path)
    try:
        (outcome,) = coordinator.run(
            plan_of(model, "slow", devices=(device,), conversations=(0, 1), settle_s=0.3),
            tmp_path / "out",
            quiet,
        )
    finally:
        end.set()
        recorder.join()
    row = summary.summarised(outcome)
    assert row["energy"]["source"] == "measured:external"
    assert row["energy_closure"] == pytest.approx([1, 1], abs=0.01)
    assert len(read_record(tmp_path / "out" / outcome.job.folder / "power.csv")[0]) > 2
