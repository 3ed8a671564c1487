"""lm-evaluation-harness against the server: the same scores, to the last bit, as against the library."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")
pytestmark = pytest.mark.slow

QUESTIONS = [
    ("The capital of France is", ["Paris", "Rome", "Oslo", "Lima"], 0),
    ("Two plus three equals", ["four", "five", "nine", "ten"], 1),
    ("Water freezes at zero degrees", ["Kelvin", "of arc", "Celsius", "longitude"], 2),
    ("The opposite of hot is", ["warm", "spicy", "cold", "tall"], 2),
    ("A baby cat is called a", ["puppy", "kitten", "calf", "foal"], 1),
    ("The sun rises in the", ["east", "west", "north", "south"], 0),
    ("Bees make", ["milk", "silk", "wool", "honey"], 3),
    ("The largest ocean is the", ["Arctic", "Indian", "Pacific", "Atlantic"], 2),
    ("", ["The", "Zyxgh"], 0),
    ("An octagon has", ["eight sides", "three sides"], 0),
    ("Romeo and Juliet was written by William", ["Blake", "Shakespeare", "Wordsworth"], 1),
    ("Naïve café:", ["crème brûlée", "日本語", "🙂"], 0),
]
TASK = """
task: small_choice
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
  - metric: acc_norm
"""


def evaluate(folder: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).with_name("evaluate.py")), str(folder), *arguments]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "home")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=os.environ | offline)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def test_a_multiple_choice_task_scores_as_the_library_does(
    served: Any, default_model: Path, tmp_path: Path
) -> None:
    data = tmp_path / "questions.jsonl"
    rows = [{"question": q, "choices": c, "answer": a} for q, c, a in QUESTIONS]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "small_choice.yaml").write_text(TASK.format(data=data), encoding="utf-8")
    by_server = evaluate(tmp_path, "server", served.url, "smollm2")
    by_library = evaluate(tmp_path, "library", str(default_model))
    assert by_server == by_library
    assert len(by_server["samples"]) == len(QUESTIONS)
    assert by_server["scores"]["acc,none"] > 0.5  # chance is below a third
