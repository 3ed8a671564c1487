from __future__ import annotations

import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.machine.sampling import in_turns, summary


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=50))
def test_the_summary_is_numpys(values: list[float]) -> None:
    found = summary(values)
    low, high = np.percentile(values, [25, 75])
    assert found["n"] == len(values)
    assert found["median"] == statistics.median(values)
    assert found["iqr"] == pytest.approx(high - low, abs=1e-6)


def test_nothing_has_no_summary() -> None:
    with pytest.raises(ValueError, match="no values"):
        summary([])


def test_every_case_runs_once_a_round_and_never_two_rounds_in_one_order() -> None:
    ran: list[str] = []

    def case(name: str) -> float:
        ran.append(name)
        return float(len(ran))

    names = "abcdefgh"
    found = in_turns({name: lambda name=name: case(name) for name in names}, 3, warm=True)
    rounds = [ran[at : at + len(names)] for at in range(0, len(ran), len(names))]
    assert len(rounds) == 4  # one for warmth
    assert all(sorted(each) == sorted(names) for each in rounds)
    assert len({tuple(each) for each in rounds}) == 4
    assert all(len(figures) == 3 and figures == sorted(figures) for figures in found.values())
    assert min(min(figures) for figures in found.values()) > len(names)  # the warm round was for nothing
