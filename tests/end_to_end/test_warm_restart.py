"""Long prompts survive the server: after a restart the first token comes soon and the answer is the same."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from real_server import PATIENCE_S, RealServer

PREFIX_TOKENS = 2_000


@pytest.fixture(scope="module")
def prompt() -> list[int]:
    """Tokens without repetition, so that nothing of them is found twice."""
    return [1_000 + 7 * place % 40_000 for place in range(PREFIX_TOKENS)]


def serve(model: Path, folder: Path, *more: str) -> RealServer:
    return RealServer(str(model), "--prefix-dir", str(folder), "--context", "2304", *more)


def ask(server: RealServer, prompt: list[int], last: int, **more: Any) -> tuple[float, dict[str, Any], int]:
    """Seconds of a short answer, its one choice, and how many prompt tokens were cached."""
    body = {"prompt": [*prompt, last], "temperature": 0, "max_tokens": 4, "logprobs": 3, **more}
    begin = time.perf_counter()
    answer = server.client.post("/v1/completions", json=body)
    seconds = time.perf_counter() - begin
    assert answer.status_code == 200, answer.text
    whole = answer.json()
    return seconds, whole["choices"][0], whole["usage"]["prompt_tokens_details"]["cached_tokens"]


def test_first_token_soon_after_a_restart_and_the_same_answer(
    default_model: Path, tmp_path: Path, prompt: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    with serve(default_model, tmp_path) as server:
        ask(server, prompt[-64:], 5)  # warms what a first request warms
        cold_s, cold, cached = ask(server, prompt, 5)
        assert cached == 0
        warm_s, warm, cached = ask(server, prompt, 5)
        assert cached == PREFIX_TOKENS
        assert server.end()[0] == 0
    with serve(default_model, tmp_path) as server:
        ask(server, prompt[-64:], 6)
        disk_s, disk, cached = ask(server, prompt, 5)
        assert cached == PREFIX_TOKENS
        assert ask(server, prompt, 5, cache_salt="another's")[2] == 0
        code, said = server.end()
        assert (code, "Traceback" in said) == (0, False)
    assert cold == warm == disk  # tokens and log probabilities, bit by bit
    with capsys.disabled():
        print(f"\n2,000 tokens: cold {cold_s:.3f} s, in memory {warm_s:.3f} s, from disk {disk_s:.3f} s")
    assert disk_s < cold_s / 2


def test_another_kv_type_computes_its_own(default_model: Path, tmp_path: Path, prompt: list[int]) -> None:
    for kind in ("bf16", "int8"):
        with serve(default_model, tmp_path, "--kv-type", kind) as server:
            for _ in range(2):
                ask(server, prompt[:512], 5)
            server.end()
    with serve(default_model, tmp_path, "--kv-type", "f32") as server:
        assert ask(server, prompt[:512], 5)[2] == 0
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 3


def test_a_kill_while_writing_harms_nothing(default_model: Path, tmp_path: Path, prompt: list[int]) -> None:
    first: dict[str, Any] | None = None
    for round_number in range(3):
        with serve(default_model, tmp_path) as server:
            for _ in range(2):
                _, choice, cached = ask(server, prompt, 5)
                first = first or choice
                assert choice == first
            least = 20 * (round_number + 1)
            deadline = time.monotonic() + PATIENCE_S
            while len(list(tmp_path.glob("*/*.page"))) < least and time.monotonic() < deadline:
                time.sleep(0.001)
            server.process.kill()
    with serve(default_model, tmp_path) as server:
        _, choice, cached = ask(server, prompt, 5)
        assert choice == first
        assert cached >= 60 * 16
        code, said = server.end()
        assert (code, "Traceback" in said) == (0, False)
    assert list(tmp_path.glob("*/.writing-*")) == []


def test_rubbish_in_the_folder_is_ignored_and_said(
    default_model: Path, tmp_path: Path, prompt: list[int]
) -> None:
    with serve(default_model, tmp_path) as server:
        for _ in range(2):
            _, first, _ = ask(server, prompt[:1024], 5)
        server.end()
    pages = sorted(tmp_path.glob("*/*.page"))
    assert len(pages) == 64
    for number, path in enumerate(pages):
        content = path.read_bytes()
        if number % 3 == 0:
            path.write_bytes(content[: len(content) // 2])
        elif number % 3 == 1:
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 255]))
        else:
            path.write_bytes(b"\x80\x04cos\nsystem\n" + content)
    (tmp_path / "models.json").write_text("[" * 10_000)
    with serve(default_model, tmp_path) as server:
        _, again, _ = ask(server, prompt[:1024], 5)
        assert again == first
        code, said = server.end()
    assert (code, "Traceback" in said) == (0, False)
    assert "is ignored" in said
