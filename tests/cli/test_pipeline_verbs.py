"""The verbs of pipelines: what they refuse, and what they do not load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trimtab.cli.fit.pipeline import milliseconds
from trimtab.cli.measure.pipeline import rates_of
from trimtab.errors import UsageError


@pytest.mark.parametrize(("text", "rates"), [("", []), ("5", [5]), ("2, 4", [2, 4]), ("1..8", [1, 2, 4, 8])])
def test_rates(text: str, rates: list[float]) -> None:
    assert rates_of(text) == pytest.approx(rates)


@pytest.mark.parametrize("text", ["fast", "0", "-1", "1..", "..", "1..0", "nan"])
def test_no_rates(text: str) -> None:
    with pytest.raises(UsageError):
        rates_of(text)


@pytest.mark.parametrize(("text", "value"), [("p99=300ms", 300), ("p99=2s", 2000), ("p99=0.5s", 500)])
def test_objectives(text: str, value: float) -> None:
    assert milliseconds(text) == value


@pytest.mark.parametrize("text", ["", "300ms", "p99=0ms", "p99=-1ms", "p95=3s"])
def test_no_objectives(text: str) -> None:
    with pytest.raises(UsageError):
        milliseconds(text)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = "from trimtab.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def test_a_pipeline_that_is_wrong_is_known_before_it_is_served(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "p.yaml").write_text("stages: [{op: no-such-thing}]\n")
    done = run("serve", str(tmp_path / "p.yaml"))
    assert done.returncode == 3
    assert "no operation 'no-such-thing'" in done.stderr
    assert run("serve", str(tmp_path / "none.yaml")).returncode == 2
    assert "makes none" in run("serve", str(tmp_path / "p.yaml"), "--memory", "400MB").stderr


def test_serving_a_model_imports_nothing_of_pipelines() -> None:
    code = (
        "import sys, trimtab.cli.serve, trimtab.server.launch, trimtab.server.app, trimtab.server.opening\n"
        "print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = set(loaded.stdout.split())
    assert not {name for name in names if name.startswith("trimtab.server.pipeline")}
    assert not {"onnxruntime", "PIL", "yaml", "simplejpeg", "cv2"} & {name.split(".")[0] for name in names}
