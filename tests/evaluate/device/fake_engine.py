"""An engine that speaks as one over HTTP and has nothing behind it: `fake_engine.py PORT [how]`.

`how`: `slow` waits between pieces, `hungry` takes memory with every answer, `dies` ends in the middle of the
second answer, `refuses` ends at once as trimtab does when a model does not fit, `bad` sends an error.
"""

from __future__ import annotations

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

PORT, HOW = int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""
KEPT: list[bytearray] = []
ASKED: list[int] = []


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._whole({"data": [{"id": "fake"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        ASKED.append(1)
        if HOW == "bad":
            self._whole({"error": "no"}, 500)
            return
        if HOW == "hungry":
            KEPT.append(bytearray(os.urandom(1) * (64 << 20)))
        self.send_response(200)
        self.end_headers()
        self._send({"choices": [{"delta": {"role": "assistant"}}]})
        for index in range(body["max_tokens"]):
            if HOW == "dies" and len(ASKED) == 3 and index == 1:
                os._exit(3)
            time.sleep(0.02 if HOW == "slow" else 0.001)
            self._send({"choices": [{"delta": {"content": f"w{index} "}}]})
        words = sum(len(message["content"].split()) for message in body["messages"])
        usage = {"prompt_tokens": words, "completion_tokens": body["max_tokens"]}
        self._send({"choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def _send(self, message: Any) -> None:
        self.wfile.write(b"data: " + json.dumps(message).encode() + b"\n\n")

    def _whole(self, message: Any, status: int = 200) -> None:
        content = json.dumps(message).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


if __name__ == "__main__":
    if HOW == "refuses":
        sys.exit(4)
    HTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
