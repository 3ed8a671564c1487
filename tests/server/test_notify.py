"""systemd hears when the server is ready and when it stops."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from trimtab.server.notify import notify

FAKES = Path(__file__).with_name("serving_fakes.py")


def test_ready_and_stopping(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(20)
        with subprocess.Popen(
            [sys.executable, str(FAKES)],
            env=os.environ | {"NOTIFY_SOCKET": str(path)},
            stdout=subprocess.PIPE,
            text=True,
        ) as server:
            assert manager.recv(100) == b"READY=1"
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            assert httpx.get(f"{url}/ready", timeout=20).status_code == 200
            server.send_signal(signal.SIGTERM)
            assert manager.recv(100) == b"STOPPING=1"


@pytest.mark.parametrize("address", ["", "relative", "/no/such/socket", "@abstract-and-not-there"])
def test_nobody_to_tell(address: str, monkeypatch: Any) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify("READY=1")
