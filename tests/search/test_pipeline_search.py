"""Demand laws, the model of the queues, and the plan, on pipelines whose truth is known."""

from __future__ import annotations

import random
import statistics
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.errors import NotMeasured, UsageError
from trimtab.search import demand, pipeline_model, pipeline_plan
from trimtab.search.pipeline_model import Arriving, ModelStage, simulate

STAGES = [
    {"op": "decode-image", "name": "decode"},
    {"op": "fit-to-network", "name": "fit", "settings": {"side": 640}},
    {"op": "detect-text", "name": "detect"}, {"op": "crop-boxes", "name": "crop"},
    {"op": "recognise-text", "name": "read", "batch": {"most": 32, "delay_ms": 100.0, "bucket": 32}},
]  # fmt: skip
BATCH = {"most": 1, "delay_ms": 0.0, "bucket": 32}
SERVER_MS = 2.0


def true_ms(features: dict[str, float]) -> dict[str, float]:
    return {
        "decode": 0.3 + 4 * features["megabytes"] + 2 * features["decoded_megapixels"],
        "fit": 0.2 + 3 * features["tensor_megapixels"],
        "detect": 5 + 200 * features["tensor_megapixels"],
        "crop": 0.1 * features["crops"],
        "read": 1.0 * features["crops"] + 0.8 * features["characters"],
    }


def picture(source: random.Random) -> dict[str, Any]:
    crops = source.randint(0, 30)
    megapixels = source.uniform(0.2, 12)
    columns = [source.randint(40, 300) for _ in range(crops)]
    features = {
        "one": 1.0, "megabytes": megapixels * source.uniform(0.05, 0.2), "megapixels": megapixels,
        "decoded_megapixels": min(megapixels, 3.0), "tensor_megapixels": source.choice([0.1, 0.3, 0.4]),
        "crops": float(crops), "characters": sum(columns) / 20,
    }  # fmt: skip
    return {"name": "", "weight": 1.0, "features": features, "columns": columns, "cpu_ms": true_ms(features)}


def section(count: int = 12, seed: int = 0, cores: int = 2) -> dict[str, Any]:
    source = random.Random(seed)
    rows = [picture(source) for _ in range(count)]
    stages = [
        {"worker": "thread", "workers": 0, "hand_over": "queue", "settings": {}, "batch": BATCH, **stage}
        for stage in STAGES
    ]
    names = [stage["name"] for stage in STAGES]
    cpu_ms = {name: statistics.fmean(row["cpu_ms"][name] for row in rows) for name in names}
    cpu_ms["server"] = SERVER_MS
    total = sum(cpu_ms.values())
    return {
        "name": "test", "cores": cores, "stages": stages, "pictures": rows, "cpu_ms": cpu_ms,
        "cpu_share": {name: value / total for name, value in cpu_ms.items()}, "busy_cores": float(cores),
        "law": {"read": {"fixed_ms": 1.0, "column_ms": 0.045}},
    }  # fmt: skip


def test_a_law_that_is_there_is_found_and_holds_for_other_pictures() -> None:
    law = demand.fitted(section())
    others = [picture(random.Random(100 + number))["features"] for number in range(20)]
    for features in others:
        assert law.ms(features) == pytest.approx(sum(true_ms(features).values()) + SERVER_MS, rel=1e-3)
    mean_ms = statistics.fmean(sum(true_ms(each).values()) + SERVER_MS for each in others)
    assert law.knee([(1.0, each) for each in others]) == pytest.approx(2000 / mean_ms, rel=1e-3)
    assert law.networks_only([(1.0, each) for each in others]) > law.knee([(1.0, each) for each in others])


def test_a_stage_with_one_worker_is_the_limit() -> None:
    data = section(cores=8)
    data["stages"][2]["workers"] = 1
    features = picture(random.Random(5))["features"]
    assert demand.fitted(data).knee([(1.0, features)]) <= 1000 / true_ms(features)["detect"] * 1.001


def test_one_kind_of_picture_is_not_enough() -> None:
    with pytest.raises(NotMeasured, match="at least 2"):
        demand.fitted(section(count=1))


@given(st.integers(0, 50), st.integers(1, 5), st.integers(2, 20))
@settings(max_examples=40, deadline=None)
def test_factors_are_never_negative_and_never_worse_than_none(seed: int, width: int, height: int) -> None:
    source = np.random.default_rng(seed)
    size, spent = source.normal(size=(height, width)), source.normal(size=height)
    factors = demand.nonnegative(size, spent)
    assert (factors >= 0).all()
    assert np.linalg.norm(size @ factors - spent) <= np.linalg.norm(spent) + 1e-9


def whole(count: int, gap_s: float, cost_s: float) -> list[Arriving]:
    return [Arriving(number * gap_s, [cost_s], []) for number in range(count)]


def test_without_a_queue_a_picture_takes_its_time() -> None:
    assert simulate([ModelStage(False, 2)], whole(20, 1.0, 0.3), 2) == pytest.approx([0.3] * 20)


def test_beyond_the_knee_each_one_waits_for_all_before_it() -> None:
    # Two a second arrive, one a second is done: the n-th waits for half of those before it.
    expected = [1.0 + 0.5 * number for number in range(20)]
    assert simulate([ModelStage(False, 1)], whole(20, 0.5, 1.0), 1) == pytest.approx(expected)


def test_an_m_d_1_queue_waits_as_theory_says() -> None:
    source, at, jobs = random.Random(1), 0.0, []
    for _ in range(20_000):
        jobs.append(Arriving(at, [1.0], []))
        at += source.expovariate(0.5)
    # Pollaczek-Khinchine for constant service: wait = rho * service / (2 * (1 - rho)) = 0.5 at half load.
    assert statistics.fmean(simulate([ModelStage(False, 1)], jobs, 1)) == pytest.approx(1.5, rel=0.05)


def test_crops_wait_for_company_and_no_longer() -> None:
    stages = [ModelStage(False, 1), ModelStage(True, 1, most=4, delay_s=0.2, cost_s=lambda widths: 0.1)]
    lonely, full, none = Arriving(0, [0.1], [50]), Arriving(10, [0.1], [50] * 4), Arriving(20, [0.1], [])
    assert simulate(stages, [lonely, full, none], 2) == pytest.approx([0.4, 0.2, 0.1])


def test_crops_of_other_widths_are_no_company() -> None:
    stages = [ModelStage(False, 1), ModelStage(True, 1, most=2, delay_s=0.5, cost_s=lambda widths: 0.1)]
    assert simulate(stages, [Arriving(0, [0.1], [50, 200])], 2)[0] == pytest.approx(0.8)


def test_a_plan_drops_a_delay_that_only_costs() -> None:
    data = section()
    found = pipeline_plan.plan(data, slo_p99_ms=5_000)
    assert found.changes["read"]["delay_ms"] < 100
    assert found.p99_ms < 0.9 * found.unchanged_p99_ms
    assert 0 < found.slo_rate_per_s <= found.knee_per_s
    assert found.networks_only_per_s > found.knee_per_s
    decode = found.changes["decode"]["side"]
    assert decode == round(640 * 5 / 3)
    applied = pipeline_plan.applied(STAGES, found.changes)
    assert applied[4]["batch"]["delay_ms"] == found.changes["read"]["delay_ms"]
    assert applied[0]["settings"]["side"] == decode
    assert applied[2] == STAGES[2]


def test_a_plan_that_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="beyond the knee"):
        pipeline_plan.plan(section(), 500, rate=1e6)
    assert pipeline_plan.plan(section(), slo_p99_ms=0.001).slo_rate_per_s == 0
    with pytest.raises(NotMeasured):
        pipeline_plan.applied(STAGES[:2], {"read": {"most": 1}})


def test_the_model_of_a_section_has_its_stages() -> None:
    data = section()
    stages = pipeline_model.model_of(data, {"read": {"most": 2, "delay_ms": 0.0}})
    assert len(stages) == 1 + len(STAGES)
    assert stages[-1].each
    assert (stages[-1].most, stages[-1].delay_s) == (2, 0.0)
    assert stages[-1].cost_s([100, 200]) == pytest.approx((1 + 0.045 * 400) / 1e3)
    assert pipeline_model.p99_ms(data, {}, 1.0) == pipeline_model.p99_ms(data, {}, 1.0)
