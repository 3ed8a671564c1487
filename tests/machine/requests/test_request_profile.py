"""Fits in the profile: found by model and engine, refused when stale or noisy; priors from ceilings."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_profile import made_profile, stamp

from trimtab.errors import NotMeasured
from trimtab.machine.probe import Limits
from trimtab.machine.profile import Profile
from trimtab.machine.requests import profile as request_profile
from trimtab.machine.requests.model import BatchFit, PromptCost, RequestModel
from trimtab.machine.requests.prior import WorkShape, ceilings_of, prior
from trimtab.machine.roofline import Ceilings

SHAPE = WorkShape.of(
    layers=30, hidden=576, heads=9, kv_heads=3, head_dim=64, mlp=1536, vocab=49_152, weight_bytes=90_000_000
)


def model(name: str = "a.gguf#12", seconds: float = 0.1, **settings: object) -> RequestModel:
    return RequestModel(
        name, "trimtab", settings, {1: BatchFit(1, PromptCost.of({1: seconds}, {}), 0.01, 0.0)}
    )


def test_one_entry_a_model_engine_and_settings(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    request_profile.save(model(), stamp({}, 2), path)
    request_profile.save(model(seconds=0.2), stamp({}, 1), path)  # the same: replaced
    request_profile.save(model("b.gguf#34"), stamp({}), path)
    request_profile.save(model(seconds=0.4, format="q8"), stamp({}), path)
    profile = Profile.load(path)
    assert len(profile.need("llm")["fits"]) == 3
    assert request_profile.expected_request_seconds(profile, "b.gguf", 1, 3) == pytest.approx(0.12)
    assert request_profile.find(profile, "a.gguf", settings={"format": "q8"}).predict(1, 1).total_s == 0.4
    assert request_profile.find(profile, "a.gguf#12").predict(1, 1).total_s == 0.4  # the newest


def test_what_is_missing_stale_or_noisy_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    request_profile.save(model("old.gguf#1"), stamp({}, 40), path)
    request_profile.save(model("busy.gguf#1"), stamp({}, others=0.9), path)
    request_profile.save(model("fine.gguf#1"), stamp({}), path)
    profile = Profile.load(path)
    request_profile.find(profile, "fine.gguf")  # the neighbours' stamps say nothing against it
    for name, words in (("old.gguf", "days ago"), ("busy.gguf", "busy machine"), ("no.gguf", "never timed")):
        with pytest.raises(NotMeasured, match=words) as error:
            request_profile.find(profile, name)
        assert f"--model {name}" in error.value.hint
    assert request_profile.find(profile, "busy.gguf", allow_noisy=True).model == "busy.gguf#1"
    with pytest.raises(NotMeasured):
        request_profile.find(profile, "fine.gguf", "llamacpp")


def test_a_model_is_known_by_content(tmp_path: Path) -> None:
    one, two, folder = tmp_path / "m.gguf", tmp_path / "n.gguf", tmp_path / "f"
    one.write_bytes(b"x" * 100)
    two.write_bytes(b"x" * 101)
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"x" * 100)
    marks = [request_profile.model_identity(each).split("#") for each in (one, two, folder)]
    assert marks[0][1] != marks[1][1]
    assert marks[2] == ["f", marks[0][1]]


def test_a_prior_is_the_roofline() -> None:
    """SmolLM2-135M as in the design notes: 323 tokens/s at 256 positions and 31 GB/s."""
    found = prior(SHAPE, ceilings_of(Limits(2, 31e9, 31e9, 810e9, "x", 405e9, "x")), batches=(1, 32))
    assert SHAPE.kv_bytes == 23_040
    assert 1 / found.step_s([256]) == pytest.approx(323, rel=0.01)
    assert 512 / found.predict(512, 1).first_s == pytest.approx(3270, rel=0.02)
    assert 32 / found.step_s([256] * 32) == pytest.approx(2661, rel=0.05)
    assert found.basis == "prior"


def test_a_prior_takes_the_profile() -> None:
    found = prior(SHAPE, Ceilings.of(made_profile(), 2))
    assert found.step_s([1]) == pytest.approx(90e6 / 20e9, rel=0.3)
