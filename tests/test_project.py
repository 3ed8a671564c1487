"""The files around the code agree with each other."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import trimtab

ROOT = Path(__file__).resolve().parent.parent
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_one_version() -> None:
    assert tomllib.loads(PYPROJECT)["project"]["version"] == trimtab.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\d+\.\d+\.\d+)", changelog, re.MULTILINE)
    assert newest is not None
    assert newest[1] == trimtab.__version__


def test_every_make_target_is_explained() -> None:
    targets = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert targets is not None
    assert [
        line.split()[0] for line in run("make", "--no-print-directory", "help").stdout.splitlines()
    ] == sorted(targets[1].split())


def test_ci_runs_the_test_command_of_the_readme() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = [line for line in script.read_text(encoding="utf-8").splitlines() if line.startswith("make ")]
    assert commands == ["make test", "make lint"]
    assert "\nmake test\n" in readme
    assert "\nmake serve\n" in readme


def test_every_dependency_has_its_reason() -> None:
    listed = PYPROJECT.partition("\ndependencies = [\n")[2].partition("\n]")[0].splitlines()
    assert len(listed) == len(tomllib.loads(PYPROJECT)["project"]["dependencies"])
    for line in listed:
        assert re.search(r'",\s+# \w', line), f"no reason behind {line.strip()}"


def run(*command: str, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHON": python}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def test_the_needs_of_the_build_are_met_or_named() -> None:
    assert run("sh", "tools/needs.sh").returncode == 0
    done = run("sh", "tools/needs.sh", python="no-such-python")
    assert done.returncode == 1
    assert "hint: " in done.stderr


def test_size_counts_every_source() -> None:
    out = run(sys.executable, "tools/size.py").stdout
    assert "largest files" in out
    assert "largest functions" in out


def test_sources_name_no_folder_of_a_person() -> None:
    pattern = re.compile(r"/(home|root|Users)/\w+")
    for folder in ("src", "native", "tests", "docs", "examples", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in {".py", ".h", ".cpp", ".md", ".toml", ".json"} and path != Path(__file__):
                found = pattern.search(path.read_text(encoding="utf-8"))
                assert found is None, f"{path.relative_to(ROOT)}: {found and found[0]}"


def test_every_module_says_what_it_owns() -> None:
    for path in sorted((ROOT / "src" / "trimtab").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if text.strip():
            assert ast.get_docstring(ast.parse(text)), f"{path.relative_to(ROOT)} has no docstring"
