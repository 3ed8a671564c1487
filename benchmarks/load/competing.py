"""Clients that compete for a server: each thinks for a while, sends a prompt, reads the answer, thinks again.

As a program: `competing.py PORT MODEL CLIENTS THINK_SECONDS SEED`, until it is ended. Prompts are distinct
token ids; thinking is exponentially distributed, so that there are moments in which nobody asks.
"""

from __future__ import annotations

import http.client
import json
import random
import sys
import threading
import time

PROMPT, OUTPUT = 400, 6


def client(port: int, model: str, think_s: float, seed: int) -> None:
    """One of them, for ever."""
    draw = random.Random(seed)
    while True:
        time.sleep(draw.expovariate(1 / think_s))
        prompt = draw.choices(range(300, 10_000), k=PROMPT)
        body = {"model": model, "prompt": prompt, "max_tokens": OUTPUT, "ignore_eos": True, "temperature": 0}
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request(
                "POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"}
            )
            connection.getresponse().read()
        except OSError:
            return  # the server has gone
        finally:
            connection.close()


def main() -> None:
    port, model, clients, think_s, seed = sys.argv[1:]
    threads = [
        threading.Thread(target=client, args=(int(port), model, float(think_s), int(seed) + number))
        for number in range(int(clients))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
