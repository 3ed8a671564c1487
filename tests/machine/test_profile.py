"""The profile's file: it comes back whole, refuses what is stale, noisy, foreign or damaged."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import BadFile, NotMeasured
from trimtab.machine.profile import DAY_S, Profile, Section, own_seconds, update, watched


def stamped(days_ago: float = 0, **more: float) -> Section:
    date = (datetime.now(UTC) - timedelta(days=days_ago)).isoformat(timespec="seconds")
    return Section({"read": 1.5}, date, **more)


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    profile = Profile.empty().with_section("bandwidth", stamped())
    path = profile.save(tmp_path / "p.json")
    assert Profile.load(path).sections == profile.sections
    assert [each.name for each in tmp_path.iterdir()] == ["p.json"]


def test_a_section_is_replaced_and_the_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    for name in ("a", "b", "a"):
        update(name, stamped(), path)
    assert set(Profile.load(path).sections) == {"a", "b"}


def test_stale_noisy_and_missing_sections_are_refused() -> None:
    profile = Profile.empty()
    for name, section in {
        "old": stamped(3),
        "loud": stamped(others=0.5),
        "robbed": stamped(steal=0.2),
    }.items():
        profile = profile.with_section(name, section)
    with pytest.raises(NotMeasured, match=r"3\.0 days ago"):
        profile.need("old", max_age_s=DAY_S)
    assert profile.need("old") == {"read": 1.5}
    for name in ("loud", "robbed"):
        with pytest.raises(NotMeasured, match="busy machine"):
            profile.need(name)
        assert profile.need(name, allow_noisy=True)
    for name, command in (("gemm", "measure gemm"), ("peak", "measure --only peak")):
        with pytest.raises(NotMeasured, match=f"no section `{name}`; it has old, loud, robbed") as error:
            profile.need(name)
        assert f"`trimtab {command}`" in error.value.hint
    with pytest.raises(NotMeasured, match="in the future"):
        Profile({}, {"tomorrow": stamped(-1)}).need("tomorrow")


def test_no_profile_and_a_foreign_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "profile.json"
    monkeypatch.setenv("TRIMTAB_PROFILE", str(path))
    with pytest.raises(NotMeasured, match="no profile"):
        Profile.load()
    Profile({"processor": "another"}, {}).save()
    with pytest.raises(NotMeasured, match="another machine"):
        Profile.load()
    assert Profile.load(path).machine == {"processor": "another"}  # asked for by name it is read
    update("a", stamped())
    assert set(Profile.load().sections) == {"a"}


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"schema": "hwprofile/9", "machine": {}, "sections": {}}', "[" * 100_000,
     '{"schema": "hwprofile/1", "machine": {}, "sections": {"a": {"data": {}, "date": "soon"}}}',
     '{"schema": "hwprofile/1", "machine": {}, "sections": {"a": 3}}'],
)  # fmt: skip
def test_damaged_files_are_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(text)
    with pytest.raises(BadFile, match=r"p\.json"):
        Profile.load(path)
    update("a", stamped(), path)
    assert set(Profile.load(path).sections) == {"a"}
    assert (tmp_path / "p.json.damaged").read_text() == text


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    )
)
def test_any_json_is_a_profile_or_a_bad_file(
    tmp_path_factory: pytest.TempPathFactory, content: object
) -> None:
    path = tmp_path_factory.mktemp("profile") / "p.json"
    path.write_text(json.dumps({"schema": "hwprofile/1", "machine": {}, "sections": content}))
    with contextlib.suppress(BadFile):
        Profile.load(path)


def test_a_section_without_a_zone_a_share_or_a_basis_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    good = {"data": {}, "date": "2026-01-01T00:00:00+00:00"}
    for wrong in (
        {"date": "2026-01-01T00:00:00"}, {"steal": "none"}, {"others": -1}, {"seconds": True},
        {"basis": "guessed"}, {"data": []}, {"steal": float("nan")}, {"more": 1},
    ):  # fmt: skip
        content = {"schema": "hwprofile/1", "machine": {}, "sections": {"a": good | wrong}}
        path.write_text(json.dumps(content))
        with pytest.raises(BadFile):
            Profile.load(path)


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just({})
fields = st.fixed_dictionaries(
    {"data": st.just({}) | values, "date": st.just("2026-01-01T00:00:00+00:00") | values},
    optional=dict.fromkeys(("seconds", "steal", "others", "basis"), values),
)


@given(fields)
def test_what_loads_can_be_asked_for(tmp_path_factory: pytest.TempPathFactory, section: object) -> None:
    path = tmp_path_factory.mktemp("profile") / "p.json"
    path.write_text(json.dumps({"schema": "hwprofile/1", "machine": {}, "sections": {"a": section}}))
    try:
        profile = Profile.load(path)
    except BadFile:
        return
    with contextlib.suppress(NotMeasured):
        assert isinstance(profile.need("a"), dict)


def test_work_of_children_is_the_measurements_own_also_while_they_run() -> None:
    """A child that keeps a processor busy is no disturbance, whether it has ended or not."""
    loud = "import time\nend = time.process_time() + {}\nwhile time.process_time() < end: pass\n"
    wait = "print('done', flush=True)\ninput()"
    before = own_seconds()
    subprocess.run([sys.executable, "-c", loud.format(0.3)], check=True)
    ended = own_seconds() - before
    assert ended >= 0.3
    with subprocess.Popen(
        [sys.executable, "-c", loud.format(0.5) + wait], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as running:
        assert running.stdout is not None
        running.stdout.readline()
        alive = own_seconds() - before - ended
        assert alive >= 0.45  # its clock counts in ticks
        running.communicate(b"\n")
    assert own_seconds() - before - ended >= alive  # and nothing is lost when it ends


def test_a_watch_stamps_how_calm_it_was() -> None:
    with watched() as watch:
        sum(range(300_000))
    section = watch.section({"x": 1})
    assert section.seconds > 0
    assert 0 <= section.steal <= 1
    assert 0 <= section.others <= 1
    assert section.age_s < 60
