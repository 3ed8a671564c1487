"""The table of papers is complete, well formed and current."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from trimtab.papers import Paper, papers, render_markdown

ROOT = Path(__file__).resolve().parent.parent
VERBS = {"run", "serve", "measure", "compress", "adapt", "train", "evaluate", "fit", "bench", "cluster"}


def test_there_are_52_papers_in_the_order_of_their_keys() -> None:
    keys = [paper.key for paper in papers()]
    assert len(keys) == len(set(keys)) == 52
    assert keys == sorted(keys)


@pytest.mark.parametrize("paper", papers(), ids=lambda paper: paper.key)
def test_a_paper_is_well_formed(paper: Paper) -> None:
    assert re.fullmatch(r"https://arxiv\.org/abs/\d{4}\.\d{5}", paper.link)
    command = paper.command.split()
    assert command[0] == "trimtab"
    assert command[1] in VERBS, f"{paper.command}: `{command[1]}` is no verb of trimtab"
    assert all(text and text == text.strip() for text in (paper.title, paper.mechanism, paper.claim))


def test_no_two_papers_become_the_same_command() -> None:
    commands = [paper.command for paper in papers()]
    assert len(set(commands)) == len(commands)


@pytest.mark.parametrize("paper", papers(), ids=lambda paper: paper.key)
def test_a_paper_that_works_shows_its_report(paper: Paper) -> None:
    if paper.report:
        assert (ROOT / "benchmarks" / "reports" / f"{paper.report}.json").is_file()


def test_a_state_without_its_report_is_refused() -> None:
    fields = ("key", "title", "arXiv 2400.00001", "mechanism", "claim", "paper", "trimtab run")
    with pytest.raises(ValueError, match="state 'works'"):
        Paper(*fields, state="works")
    with pytest.raises(ValueError, match="basis 'hearsay'"):
        Paper(*fields[:5], basis="hearsay", command="trimtab run")  # type: ignore[arg-type]


def test_the_page_is_current() -> None:
    page = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
    assert page == render_markdown(), "run `make docs`"


def test_the_module_prints_the_page() -> None:
    out = subprocess.run([sys.executable, "-m", "trimtab.papers"], capture_output=True, check=True)
    assert out.stdout.decode("utf-8") == render_markdown()
