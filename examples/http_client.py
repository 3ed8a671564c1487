"""Start a server, ask it with nothing but the standard library, stop it.

    python examples/http_client.py

Any OpenAI client does the same with base_url set to the printed address and `/v1` behind it.
"""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator


def start() -> tuple[subprocess.Popen[bytes], str]:
    """A server on a free port of this machine, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = "from trimtab.cli.main import main; main()"
    command = [sys.executable, "-c", program, "serve", "smollm2", "--host", "127.0.0.1", "--port", str(port)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL), f"http://127.0.0.1:{port}"


def wait_until_ready(server: subprocess.Popen[bytes], url: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(f"{url}/ready").close()
            return
        except (urllib.error.URLError, ConnectionError):  # not listening yet, or 503 while the model loads
            if server.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def ask(url: str, question: str) -> Iterator[str]:
    """Pieces of the answer, from one server-sent event each."""
    body = {
        "model": "smollm2",
        "messages": [{"role": "user", "content": question}],
        "stream": True,
        "max_tokens": 32,
    }
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request) as answer:
        for line in answer:
            data = line.removeprefix(b"data: ").strip()
            if data and data != b"[DONE]":
                for choice in json.loads(data)["choices"]:
                    yield choice["delta"].get("content") or ""


def main() -> None:
    server, url = start()
    try:
        wait_until_ready(server, url)
        print(f"listening on {url}")
        for piece in ask(url, "What is the sea made of?"):
            print(piece, end="", flush=True)
        print()
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=30)


if __name__ == "__main__":
    main()
