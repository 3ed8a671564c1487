"""A server's latency objective is made of the fit of its own model and settings, or refused."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trimtab.errors import NotMeasured
from trimtab.machine.profile import Section
from trimtab.machine.requests import profile as request_profile
from trimtab.machine.requests.model import BatchFit, PromptCost, RequestModel
from trimtab.server.opening import objective_of
from trimtab.server.settings import ServeSettings


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A model with two threads whose requests were timed, with one weight format."""
    monkeypatch.setenv("TRIMTAB_PROFILE", str(tmp_path / "profile.json"))
    path = tmp_path / "m.gguf"
    path.write_bytes(b"weights")
    fitted = RequestModel(
        request_profile.model_identity(path), "trimtab", {"threads": 2, "format": "q8", "kv_type": "bf16"},
        {1: BatchFit(1, PromptCost.of({1: 0.25}, {}), 0.01, 0.0)},
    )  # fmt: skip
    request_profile.save(fitted, Section({}, datetime.now(UTC).isoformat(timespec="seconds")))
    runner, settings = SimpleNamespace(threads=2), SimpleNamespace(max_running=7)
    return SimpleNamespace(path=path, engine=SimpleNamespace(runner=runner, settings=settings))


def test_limits_are_those_asked_for(opened: Any) -> None:
    objective = objective_of(ServeSettings(model="m", format="q8", slo_ttft_ms=800), opened)
    assert (objective.ttft_s, objective.tpot_s, objective.most_running) == (0.8, math.inf, 7)
    assert objective.model.predict(1, 1).total_s == 0.25


def test_a_fit_with_other_settings_is_not_taken(opened: Any) -> None:
    with pytest.raises(NotMeasured, match=r"not with threads 2, format q4, kv_type bf16") as error:
        objective_of(ServeSettings(model="m", format="q4", slo_tpot_ms=20), opened)
    assert "trimtab measure llm --model m.gguf" in error.value.hint
    opened.engine.runner.threads = 1
    with pytest.raises(NotMeasured, match="threads 1"):
        objective_of(ServeSettings(model="m", format="q8", slo_tpot_ms=20), opened)
