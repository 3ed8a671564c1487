"""The documents are true: their code runs, their links lead somewhere, their generated parts are current.

The word after a fence says what is checked; CONTRIBUTING.md has the table.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*.md")])
FENCE = re.compile(r"^```(?P<kind>\S*)[ ]*(?P<mark>[^\n]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")
DEFAULT_URL = "127.0.0.1:8000"


@dataclass(frozen=True, slots=True)
class Block:
    page: Path
    line: int
    kind: str
    mark: str
    code: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, found.start()) + 1, found["kind"], found["mark"], found["code"])
        for found in FENCE.finditer(text)
    ]


ALL = [block for page in PAGES for block in blocks(page)]
SHELL = [block for block in ALL if block.kind == "sh" and block.mark != "no-run"]
PYTHON = [page for page in PAGES if any(block.kind == "python" for block in blocks(page))]


def run(command: list[str], cwd: Path, path: Path | None = None) -> str:
    """Run with the shim folder first on the path; the output is shown when it fails."""
    env = dict(os.environ, NO_COLOR="1")
    if path is not None:
        env["PATH"] = f"{path}{os.pathsep}{env['PATH']}"
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def at_test_server(code: str, request: pytest.FixtureRequest) -> str:
    """The code, speaking to a server started for the tests where it speaks to the default address."""
    if DEFAULT_URL not in code:
        return code
    return code.replace(DEFAULT_URL, request.getfixturevalue("server_address"))


@pytest.mark.parametrize("block", ALL, ids=str)
def test_a_block_says_what_it_is(block: Block) -> None:
    assert block.kind in {"python", "sh", "json", "toml", "text"}, f"{block}: fence `{block.kind}`"
    assert block.mark in {"", "no-run"}, f"{block}: `{block.mark}` after the fence"
    if block.kind == "json":
        json.loads(block.code)
    if block.kind == "toml":
        tomllib.loads(block.code)


@pytest.mark.parametrize("page", PYTHON, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_blocks_run(
    page: Path, tmp_path: Path, default_model: Path, request: pytest.FixtureRequest
) -> None:
    program = tmp_path / "page.py"
    code = "\n\n".join(block.code for block in blocks(page) if block.kind == "python")
    program.write_text(at_test_server(code, request), encoding="utf-8")
    run([sys.executable, str(program)], tmp_path)


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_shell_blocks_run(
    block: Block, tmp_path: Path, default_model: Path, trimtab_on_path: Path, request: pytest.FixtureRequest
) -> None:
    code = at_test_server(block.code, request)
    run(["bash", "-e", "-o", "pipefail", "-c", code], tmp_path, trimtab_on_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for found in LINK.finditer(FENCE.sub("", page.read_text(encoding="utf-8"))):
        target = found["target"].partition("#")[0]
        if target and "://" not in target:
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: no {target}"


@pytest.mark.parametrize("script", ["reference", "figures"])
def test_generated_parts_are_current(script: str) -> None:
    run([sys.executable, str(ROOT / "docs" / f"{script}.py"), "--check"], ROOT)


def test_every_page_is_reached_from_the_start_page() -> None:
    seen: set[Path] = set()
    todo = [ROOT / "README.md"]
    while todo:
        page = todo.pop().resolve()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        targets = (
            found["target"].partition("#")[0] for found in LINK.finditer(page.read_text(encoding="utf-8"))
        )
        todo += [page.parent / target for target in targets if target and "://" not in target]
    assert set(PAGES) - seen == set()
