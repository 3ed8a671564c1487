"""Real engines behind the interface, in this process and over HTTP, each making the tokens asked for."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trimtab.errors import Offline, UsageError
from trimtab.evaluate.http_target import HttpTarget, RequestRefused
from trimtab.evaluate.llm import measure
from trimtab.evaluate.quality import perplexity
from trimtab.evaluate.targets import Inside, open_target
from trimtab.machine.profile import Profile
from trimtab.machine.requests import profile as request_profile


@pytest.fixture(scope="module")
def inside(default_model: Path) -> Iterator[Inside]:
    with Inside(default_model, context=512) as target:
        yield target


def test_inside_counts_and_orders_its_times(inside: Inside) -> None:
    first, total = inside.run([[300, 301, 302]], 4) or (0, 0)
    assert 0 < first < total
    assert inside.run([[400 + i, 7] for i in range(3)], 2) is not None
    bytes_, basis = inside.memory_bytes()
    assert 80e6 < bytes_ < 400e6
    assert "KV" in basis
    assert inside.model.startswith("SmolLM2")


def test_inside_scores_as_the_library_does(inside: Inside) -> None:
    text = "The river runs through the old town, and the bridge over it is made of stone. " * 14
    assert perplexity(inside, text) == pytest.approx(inside._llm.perplexity(text), rel=1e-6)


def test_a_fit_reaches_the_profile(inside: Inside, tmp_path: Path) -> None:
    told = measure(inside, budget_s=2.0, quick=True, save_to=tmp_path / "profile.json")
    profile = Profile.load(tmp_path / "profile.json")
    found = request_profile.find(profile, inside.model, allow_noisy=True)
    assert found.to_json() == told["fit"]
    assert found.predict(100, 10).total_s > found.predict(10, 10).total_s > 0
    assert told["modes"]["drafting"] == "off"


def test_over_http(server_address: str) -> None:
    target = open_target(f"http://{server_address}", "smollm2")
    first, total = target.run([[300, 301, 302]], 3) or (0, 0)
    assert 0 < first < total
    assert 0 < target.overhead_s < 1
    assert target.run([[300 + i] for i in range(2)], 2) is not None
    assert isinstance(perplexity(target, "A river runs through it. " * 20), float)
    with pytest.raises(UsageError, match="no model"):
        HttpTarget(f"http://{server_address}", "unknown-model")


def test_wrong_addresses_and_engines() -> None:
    with pytest.raises(UsageError, match="address"):
        HttpTarget("ftp://x")
    with pytest.raises(Offline, match="no answer"):
        HttpTarget("http://127.0.0.1:9")
    with pytest.raises(UsageError, match="no engine"):
        open_target("ollama", "m")


def test_an_engine_that_is_not_installed_says_how(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRIMTAB_PEERS", str(tmp_path))
    model = tmp_path / "m.gguf"
    model.write_bytes(b"GGUF")
    with pytest.raises(UsageError, match="--install llama_server"):
        open_target("llamacpp", str(model))


class _Odd(http.server.BaseHTTPRequestHandler):
    """A server that answers what it is told to."""

    answer: tuple[int, bytes] = (200, b"")

    def do_GET(self) -> None:
        self._send(200, json.dumps({"data": [{"id": "odd"}]}).encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._send(*self.answer)

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def odd() -> Iterator[HttpTarget]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Odd)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield HttpTarget(f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    thread.join()
    server.server_close()


def _stream(*events: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in events) + b"data: [DONE]\n\n"


def test_counts_decide_over_pieces(odd: HttpTarget) -> None:
    one = {"choices": [{"text": "a"}]}
    _Odd.answer = 200, _stream(one, one, {"choices": [], "usage": {"completion_tokens": 5}})
    assert odd.run([[1]], 5) is not None
    assert odd.run([[1]], 2) is None
    _Odd.answer = 200, _stream(one, one)
    assert odd.run([[1]], 2) is not None


@pytest.mark.parametrize("answer", [(400, b"no ids"), (200, _stream({"error": "full"}))])
def test_refusals_are_told(odd: HttpTarget, answer: tuple[int, bytes]) -> None:
    _Odd.answer = answer
    with pytest.raises(RequestRefused, match=r"no ids|full"):
        odd.run([[1]], 2)
