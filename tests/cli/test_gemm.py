"""`measure gemm` and `fit predict gemm` as a user meets them: answers, refusals and what to do next."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "machine"))
from gemm_case import KERNELS, ROOFS, law, rows_by

from trimtab.machine.gemm import model
from trimtab.machine.gemm.collect import Task
from trimtab.machine.gemm.shapes import Shape
from trimtab.machine.profile import Profile, watched


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profile whose predictor learned a known law."""
    fitted = model.fit(rows_by(), KERNELS, ROOFS)
    with watched() as watch:
        section = watch.section({"model": fitted.to_json(), "energy": None, "quick": False}, "recorded")
    return Profile.empty().with_section("gemm", section).save(tmp_path_factory.mktemp("p") / "profile.json")


def calm(path: Path, **changed: Any) -> Path:
    """A copy of the profile, stamped as quiet or as said."""
    content = json.loads(path.read_text())
    content["sections"]["gemm"] |= {"steal": 0.0, "others": 0.0} | changed
    copy = path.with_name("stamped.json")
    copy.write_text(json.dumps(content))
    return copy


def test_a_product_is_predicted_with_its_bars(cli: Any, profile: Path) -> None:
    profile = calm(profile)
    done = cli(
        "fit", "predict", "gemm", "64", "1000", "1000", "--threads", "2", "--profile", str(profile), "--json"
    )
    told = json.loads(done.stdout)
    assert told["seconds"] == pytest.approx(law(Task("int8", 2, Shape(64, 1000, 1000))), rel=0.15)
    assert told["bound_s"] < told["low_s"] <= told["seconds"] <= told["high_s"] < 1.5 * told["seconds"]
    assert (told["measured_around"], told["energy"]) == (True, None)
    text = cli(
        "fit", "predict", "gemm", "64", "1000", "1000", "--threads", "2", "--profile", str(profile)
    ).stdout
    assert "64x1000x1000 in int8 on 2 threads" in text
    assert "at least" in text
    far = cli("fit", "predict", "gemm", "64", "99999", "99999", "--threads", "2", "--profile", str(profile))
    assert "nothing of this size was measured" in far.stderr


def test_what_is_not_known_is_said(cli: Any, profile: Path) -> None:
    args = ("fit", "predict", "gemm", "1", "10", "10", "--threads", "2")
    none = cli(*args)
    assert none.returncode != 0
    assert "has no profile" in none.stderr
    other = cli(*args, "--format", "q8", "--profile", str(calm(profile)))
    assert "`trimtab measure gemm --format q8 --threads 2`" in other.stderr
    noisy = cli(*args, "--profile", str(calm(profile, others=0.9)))
    assert "busy machine" in noisy.stderr
    old = cli(*args, "--profile", str(calm(profile, date="2020-01-01T00:00:00+00:00", basis="measured")))
    assert "days ago" in old.stderr


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--format", "q3", "no weight format"),
        ("--threads", "two", "no numbers of threads"),
        ("--budget", "1s", "no time from 5 s"),
        ("--shapes", "missing.txt", "cannot be read"),
    ],
)
def test_impossible_measurements_are_refused_before_anything_runs(
    cli: Any, option: str, value: str, said: str
) -> None:
    done = cli("measure", "gemm", option, value)
    assert done.returncode != 0
    assert said in done.stderr


@pytest.mark.slow
def test_a_quick_measurement_can_be_asked_afterwards(cli: Any, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    told = json.loads(cli("measure", "gemm", "--quick", "--out", str(path), "--json").stdout)
    assert told["quick"]
    assert {line["predictor"] for line in told["validation"]["accuracy"]} >= {"residual trees", "roofline"}
    assert not path.with_suffix(".blocking.json").exists(), (
        "what was measured coarsely is for nobody's layers"
    )
    done = cli("fit", "predict", "gemm", "64", "512", "512", "--profile", str(calm(path)), "--json")
    assert json.loads(done.stdout)["seconds"] > 0
