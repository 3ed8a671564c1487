"""Comparing: candidates are read as written, take turns, and what cannot be had is named."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from made_target import MadeTarget
from typer.testing import CliRunner

from trimtab.errors import UsageError
from trimtab.evaluate import compare as comparing
from trimtab.evaluate import quality
from trimtab.evaluate.compare import Candidate
from trimtab.evaluate.picture import Disc, scatter
from trimtab.evaluate.workload import Request


def test_candidates_are_read_as_written() -> None:
    def parts(text: str) -> tuple[str, str, str]:
        found = Candidate.parse(text)
        return found.engine, found.model, found.format

    assert parts("smollm2") == ("trimtab", "smollm2", "")
    assert parts("a/b.gguf@q8") == ("trimtab", "a/b.gguf", "q8")
    assert parts("llamacpp:m.gguf") == ("llamacpp", "m.gguf", "")
    assert parts("http://h:1/v1") == ("http://h:1/v1", "", "")
    for wrong in ("", "llamacpp:", "llamacpp:m@q8", "@q8"):
        with pytest.raises(UsageError):
            Candidate.parse(wrong)


class Scored(MadeTarget):
    """Answers with fixed logits, so that perplexity and divergence can be worked out by hand."""

    def __init__(self, lift: float, tokens: list[int] | None) -> None:
        super().__init__()
        self._lift, self._tokens = lift, tokens

    def encode(self, text: str) -> Any:
        return self._tokens

    def logits(self, tokens: Sequence[int]) -> Any:
        rows = np.zeros((len(tokens), 4), np.float32)
        rows[:, 0] = self._lift
        return rows


def test_divergence_by_hand() -> None:
    tokens = [1] * quality.WINDOW
    flat, lifted = Scored(0.0, tokens), Scored(math.log(3), tokens)
    # flat is 1/4 each; lifted is 3/6 and 1/6 three times.
    wanted = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.25 / (1 / 6))
    assert quality.divergence(flat, lifted, "") == pytest.approx(wanted, rel=1e-6)
    assert quality.divergence(flat, flat, "") == 0.0
    assert quality.perplexity(flat, "") == pytest.approx(math.exp(2.0))
    assert "tokenizer" in str(quality.divergence(flat, Scored(0.0, tokens[1:]), ""))
    assert "HTTP" in str(quality.divergence(flat, Scored(0.0, None), ""))
    assert "short" in str(quality.divergence(Scored(0.0, [1]), Scored(0.0, [1]), ""))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> dict[str, MadeTarget]:
    targets: dict[str, MadeTarget] = {}

    def opened(self: Candidate, threads: int | None) -> MadeTarget:
        return targets.setdefault(self.text, MadeTarget(seed=len(targets)))

    class NotHere:
        def __init__(self, *_: Any, **__: Any) -> None:
            raise UsageError("no such model")

    monkeypatch.setattr(Candidate, "open", opened)
    monkeypatch.setattr(comparing, "Inside", NotHere)
    return targets


def test_rows_have_three_times_and_reasons(made: dict[str, MadeTarget]) -> None:
    work = [Request(300, 40), Request(20, 100, 2)]
    rows = comparing.compare(
        [Candidate.parse(name) for name in ("a", "b")],
        work,
        budget_s=0.5,
        trials=2,
        price_per_hour=36,
        text="",
    )
    target = made["a"]
    wanted = target.total(300, 40) + 2 * target.total(20, 100)
    assert [row.name for row in rows] == ["a", "b"]
    assert rows[0].denoised_s == pytest.approx(wanted, rel=0.05)
    assert rows[0].raw_s is not None  # of a made target, which takes no time
    assert rows[0].idealized_s is None
    assert "cannot be opened here" in rows[0].why["idealized_s"]
    assert rows[0].cost == pytest.approx(rows[0].denoised_s / 100)
    assert (rows[0].memory_bytes, rows[0].trials) == (1000, 2)
    assert rows[0].why["kl"] == "not asked for"
    ran = [len(prompt) for prompt in target.prompts]
    assert ran.count(300) == 2  # once a trial


def test_the_command_prints_json_and_draws(made: dict[str, MadeTarget], tmp_path: Path) -> None:
    from trimtab.cli.evaluate.compare import app

    picture = tmp_path / "p.svg"
    done = CliRunner().invoke(app, ["a", "b", "--quick", "--json", "--svg", str(picture)])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout.splitlines()[-1])
    assert {row["name"] for row in rows} == {"a", "b"}
    assert rows[0]["perplexity"] == pytest.approx(math.exp(2.0))
    ElementTree.fromstring(picture.read_text())


def test_a_picture_is_xml_with_a_disc_each() -> None:
    discs = [Disc("<one> & two", 1.0, 13.0, 100), Disc("b", 2.0, 13.0, 400)]
    root = ElementTree.fromstring(scatter(discs, across="s & s", upwards="ppl"))
    circles = [each for each in root.iter() if each.tag.endswith("circle")]
    assert len(circles) == 4  # and one each in the legend
    radii = [float(each.get("r", 0)) for each in circles[::2]]
    assert radii[1] == pytest.approx(2 * radii[0], rel=0.01)
    ElementTree.fromstring(scatter([], across="x", upwards="y"))
