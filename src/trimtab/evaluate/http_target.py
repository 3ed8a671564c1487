"""A model behind an OpenAI-compatible address, timed as a client sees it.

Standard library only, so that the client's own cost is small. A null request (the list of models) is measured
and told as `overhead_s`. Outputs whose count is not the one asked for are dropped by whoever calls.
"""

from __future__ import annotations

import http.client
import json
import os
import statistics
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from trimtab.errors import Offline, TrimtabError, UsageError

if TYPE_CHECKING:
    from trimtab.machine.requests.prior import WorkShape

NULL_REQUESTS = 15
_LONGEST_LINE = 1 << 20
SAFE_VOCABULARY = 30_000
"""Ids below this exist in nearly every model; a server does not say how many tokens it knows."""


class RequestRefused(TrimtabError):
    """A server's answer that is no completion."""


class HttpTarget:
    """A server to time.

    Parameters
    ----------
    address : such as http://127.0.0.1:8000 or with /v1 behind it
    model : the name that the server knows; "" for the first it lists
    engine : what it is called in the profile; default: the address
    extra : fields of every request, such as the engine's own switch for prefix caching
    """

    def __init__(
        self, address: str, model: str = "", *, engine: str = "", extra: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None, modes: Mapping[str, str] | None = None,
        timeout_s: float = 600.0,
    ) -> None:  # fmt: skip
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"`{address}` is no address", "give one such as http://127.0.0.1:8000", "engine")
        self._parts, self._timeout_s = parts, timeout_s
        self._base = parts.path.rstrip("/").removesuffix("/v1") + "/v1"
        self._extra = {"ignore_eos": True, **(extra or {})}
        key = os.environ.get("TRIMTAB_API_KEY") or os.environ.get("OPENAI_API_KEY")
        self._headers = {"Content-Type": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self.engine = engine or address
        self.settings: Mapping[str, Any] = dict(settings or {})
        self.modes: Mapping[str, str] = {
            "prefix caching": "as served; prompts are distinct", "drafting": "as served", "path": "HTTP",
            **(modes or {}),
        }  # fmt: skip
        known = self._get("/models")["data"]
        names = [str(each.get("id")) for each in known]
        if model and model not in names:
            raise UsageError(f"{address} serves no model `{model}`", f"it has {', '.join(names)}", "model")
        self.served = model or names[0]
        self.model = self.served
        told: Mapping[str, Any] = next((each for each in known if each.get("id") == self.served), {})
        self.context = int(told.get("max_model_len") or (told.get("meta") or {}).get("n_ctx_train") or 2048)
        self.vocabulary = SAFE_VOCABULARY
        self.overhead_s = self._null_s()

    def run(self, prompts: Sequence[Sequence[int]], output: int) -> tuple[float, float] | None:
        """See `Target`; several prompts go over a connection each, at the same moment."""
        results: list[tuple[float, float, int] | Exception] = [RequestRefused("not sent")] * len(prompts)
        gate = threading.Barrier(len(prompts))

        def ask(index: int, tokens: Sequence[int]) -> None:
            try:
                results[index] = self._complete(list(tokens), output, gate)
            except Exception as error:  # handed to the caller's thread
                gate.abort()
                results[index] = error

        threads = [threading.Thread(target=ask, args=pair) for pair in enumerate(prompts)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        done = []
        for result in results:
            if isinstance(result, Exception):
                raise result
            done.append(result)
        if any(count != output for _, _, count in done):
            return None
        return max(first for first, _, _ in done), max(total for _, total, _ in done)

    def memory_bytes(self) -> tuple[int, str] | None:
        """Nothing: what a distant process holds cannot be seen from here."""
        return None

    def score(self, text: str) -> npt.NDArray[np.float32] | str:
        """Log probabilities of the text's tokens where the server gives those of a prompt, else why not."""
        body = {"model": self.served, "prompt": text[:6000], "max_tokens": 0, "echo": True, "logprobs": 0}
        try:
            choice = self._post("/completions", body)["choices"][0]
            values = [each for each in choice["logprobs"]["token_logprobs"] if each is not None]
        except (TrimtabError, KeyError, TypeError, IndexError) as error:
            told = error.message if isinstance(error, TrimtabError) else repr(error)
            return f"the server gives no log-probabilities of a prompt ({told[:120]})"
        return np.array(values, np.float32)

    def logits(self, tokens: Sequence[int]) -> None:
        """Nothing: the protocol has no logits."""

    def encode(self, text: str) -> None:
        """Nothing: the protocol has no tokenizer."""

    def shape(self) -> WorkShape | None:
        return None

    def close(self) -> None:
        """Nothing is held between requests."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- HTTP -----------------------------------------------------------------------------------------------

    def _complete(self, tokens: list[int], output: int, gate: threading.Barrier) -> tuple[float, float, int]:
        """Seconds to the first token and to the end, and how many tokens the server says it made."""
        body = {
            "model": self.served, "prompt": tokens, "max_tokens": output, "temperature": 0, "stream": True,
            "stream_options": {"include_usage": True}, **self._extra,
        }  # fmt: skip
        text = json.dumps(body)
        connection = self._connection()
        try:
            connection.connect()
            gate.wait(self._timeout_s)
            start = time.perf_counter()
            connection.request("POST", f"{self._base}/completions", text, self._headers)
            first, last, counted, pieces = 0.0, 0.0, None, 0
            with connection.getresponse() as response:
                if response.status != 200:
                    raise RequestRefused(_refusal(response, response.read(4096)), "does it take token ids?")
                for event in _events(response):
                    if event.get("choices"):
                        pieces += 1
                        last = time.perf_counter() - start
                        first = first or last
                    if event.get("usage"):
                        counted = event["usage"].get("completion_tokens")
            return first, last, pieces if counted is None else int(counted)
        except OSError as error:
            raise Offline(f"no answer from {self.engine}: {error}", "is the server running?") from error
        finally:
            connection.close()

    def _null_s(self) -> float:
        times = []
        for _ in range(NULL_REQUESTS):
            start = time.perf_counter()
            self._get("/models")
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    def _get(self, path: str) -> Any:
        return self._ask("GET", path, None)

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        return self._ask("POST", path, json.dumps(body))

    def _ask(self, method: str, path: str, body: str | None) -> Any:
        connection = self._connection()
        try:
            connection.request(method, self._base + path, body, self._headers)
            response = connection.getresponse()
            content = response.read()
            if response.status != 200:
                raise RequestRefused(_refusal(response, content))
            return json.loads(content)
        except (OSError, http.client.HTTPException) as error:
            raise Offline(
                f"no answer from {self._parts.geturl()}: {error}", "is the server running?"
            ) from error
        except ValueError as error:
            raise RequestRefused(f"{self._parts.geturl()} answers no JSON: {error}") from error
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        secure = self._parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        return kind(str(self._parts.hostname), self._parts.port, timeout=self._timeout_s)


def _events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """The events of a stream until its end mark."""
    while line := response.readline(_LONGEST_LINE):
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            return
        event = json.loads(data)
        if "error" in event:
            raise RequestRefused(str(event["error"])[:300])
        yield event


def _refusal(response: http.client.HTTPResponse, content: bytes) -> str:
    return f"the server answers {response.status}: {content[:300].decode(errors='replace')}"
