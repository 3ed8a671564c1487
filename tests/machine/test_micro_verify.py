"""Anchors: those of a machine against itself, against a made-up other one, and the command."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

import pytest

from trimtab.errors import NotMeasured
from trimtab.machine import micro
from trimtab.machine.micro import memory
from trimtab.machine.micro.verify import Anchor, verify
from trimtab.machine.micro.verify import _cycles as cycles_anchor
from trimtab.machine.profile import Profile, Section


@pytest.fixture(scope="module")
def measured() -> dict[str, dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "CLOSE_BYTES", 2**21)
        return micro.measure(quick=True)


def profile_of(found: dict[str, dict[str, Any]]) -> Profile:
    profile = Profile.empty()
    for name, data in found.items():
        profile = profile.with_section(name, Section(data, datetime.now(UTC).isoformat()))
    return profile


def test_ten_anchors_or_those_of_one_core(measured: dict[str, dict[str, Any]]) -> None:
    anchors = verify(profile_of(measured))
    assert len(anchors) == 10
    assert len({anchor.name for anchor in anchors}) == 10
    for anchor in anchors:
        assert anchor.before > 0
        assert anchor.now > 0
    # Cycles of a core on itself; what is in time depends on who else is at work.
    by_name = {anchor.name: anchor for anchor in anchors}
    assert not by_name["load from L1"].changed


def test_a_machine_with_other_caches_is_told_apart(measured: dict[str, dict[str, Any]]) -> None:
    other = copy.deepcopy(measured)
    for row in other["peak_units"]["rows"]:
        row["cycles"] *= 2
    other["peak_units"]["frequency_hz"]["one"] *= 3
    for curve in other["latency"]["curves"].values():
        for point in curve:
            point["ns"] *= 20
    changed = {anchor.name for anchor in verify(profile_of(other)) if anchor.changed}
    assert {"core clock", "load from L1", "load from L2", "load from memory"} <= changed
    assert sum(name.endswith("throughput") for name in changed) == 3


@pytest.mark.parametrize("gone", ["peak_units", "latency", "sync"])
def test_a_profile_without_a_section_is_refused(gone: str, measured: dict[str, dict[str, Any]]) -> None:
    with pytest.raises(NotMeasured, match=gone):
        verify(profile_of({name: data for name, data in measured.items() if name != gone}))


def test_a_row_that_one_side_lacks_is_refused() -> None:
    with pytest.raises(NotMeasured, match="no throughput of `fma_f32 512`"):
        cycles_anchor("fma", {}, {}, ("fma_f32 512", "throughput"), 0.05)


def test_an_anchor_has_changed_beyond_its_tolerance_in_either_direction() -> None:
    for now, changed in ((104, False), (96, False), (106, True), (94, True)):
        assert Anchor("a", "ns", 100, now, 0.05).changed == changed
