"""A session over HTTP: one streamed chat completion a question, stamped at every piece.

Speaks what every OpenAI-compatible server understands. The standard library is all it uses, so that the
client's own cost is small and equal for every engine.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from trimtab.evaluate.device.driver import Event, Question, Turn
from trimtab.machine import quiet

_LONGEST_LINE = 1 << 20


class AnswerFailed(Exception):
    """The server said no, or something that is no stream of a completion."""


@dataclass(frozen=True, slots=True)
class Edge:
    """A moment between two events, with the counters at it."""

    time_s: float
    core_seconds: float
    ticks: quiet.Ticks | None

    def until(self, later: Edge, name: str) -> Event:
        seen = quiet.between(self.ticks, later.ticks)
        return Event(
            name,
            self.time_s,
            later.time_s - self.time_s,
            max(0.0, later.core_seconds - self.core_seconds),
            0.0 if seen is None else seen.steal,
        )


class ChatSession:
    """Asks a server at a URL.

    Parameters
    ----------
    core_seconds : processor time of the engine so far; 0 where it runs elsewhere
    ends_by : how this engine is told to run on: `ignore_eos`, or `logit_bias` against the end tokens
    """

    def __init__(
        self, url: str, *, core_seconds: Callable[[], float] = lambda: 0.0, ends_by: str = "ignore_eos",
        clock: Callable[[], float] = time.monotonic, start_s: float = 0.0,
    ) -> None:  # fmt: skip
        self.url = url
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._prefix = parts.path.rstrip("/")
        self._core_seconds, self._clock, self._ends_by = core_seconds, clock, ends_by
        self.start_s = start_s
        self._model: str | None = None

    def model(self, timeout_s: float = 30.0) -> str:
        """What the server calls its model.

        Raises
        ------
        AnswerFailed, OSError, http.client.HTTPException : it does not answer (yet)
        """
        if self._model is None:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)
            try:
                connection.request("GET", f"{self._prefix}/v1/models")
                response = connection.getresponse()
                body = response.read(_LONGEST_LINE)
                if response.status != 200:
                    raise AnswerFailed(f"status {response.status}")
                self._model = str(json.loads(body)["data"][0]["id"])
            except (ValueError, KeyError, IndexError, TypeError) as error:
                raise AnswerFailed(f"no list of models: {error}") from error
            finally:
                connection.close()
        return self._model

    def edge(self) -> Edge:
        return Edge(self._clock(), self._core_seconds(), quiet.ticks())

    def ask(self, question: Question) -> Turn:
        """One answer; a failure is in it, not raised."""
        begin = self.edge()
        edges: list[tuple[str, Edge]] = []
        pieces: list[str] = []
        times: list[float] = []
        usage: dict[str, Any] = {}
        connection = http.client.HTTPConnection(self._host, self._port, timeout=question.timeout_s)
        failure = ""
        try:
            body = json.dumps(self._body(question))
            connection.request(
                "POST", f"{self._prefix}/v1/chat/completions", body, {"Content-Type": "application/json"}
            )
            edges.append(("request", self.edge()))
            response = connection.getresponse()
            if response.status != 200:
                raise AnswerFailed(f"{response.status}: {response.read(300).decode(errors='replace')}")
            stamped: list[tuple[float, bytes]] = []
            for data in _data(response, begin.time_s + question.timeout_s, self._clock):
                stamped.append((self._clock(), data))
                if len(edges) == 1 and _content(_message(data)):
                    edges.append(("prefill", self.edge()))
            # Read when the stream is over: the engine needs the processor meanwhile.
            for moment, data in stamped:
                message = _message(data)
                usage = message.get("usage") or usage
                if piece := _content(message):
                    pieces.append(piece)
                    times.append(moment)
            if not pieces:
                failure = "an empty answer"
        except (AnswerFailed, OSError, http.client.HTTPException, ValueError, AttributeError) as error:
            failure = f"{type(error).__name__}: {error}"[:300]
        finally:
            connection.close()
        return self._turn(begin, edges, pieces, times, usage, failure)

    def _turn(
        self, begin: Edge, edges: list[tuple[str, Edge]], pieces: list[str], times: list[float],
        usage: dict[str, Any], failure: str,
    ) -> Turn:  # fmt: skip
        end = self.edge()
        if pieces:
            # The counters at the last piece are those at the end, a moment later: what is between is HTTP.
            edges.append(("decode", Edge(times[-1], end.core_seconds, end.ticks)))
        edges.append(("finish" if pieces else "failed", end))
        events = []
        for name, edge in edges:
            events.append(begin.until(edge, name))
            begin = edge
        counted = usage.get("completion_tokens")
        return Turn(
            events,
            "".join(pieces),
            int(usage.get("prompt_tokens") or 0),
            int(counted if counted is not None else len(pieces)),
            times,
            failure,
            int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0),
        )

    def _body(self, question: Question) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model(),
            "messages": list(question.messages),
            "max_tokens": question.max_tokens,
            "temperature": question.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if question.temperature > 0:
            body |= {"top_p": question.top_p, "top_k": question.top_k, "seed": question.seed}
        if question.forced and self._ends_by == "ignore_eos":
            body["ignore_eos"] = True
        elif question.forced:
            body["logit_bias"] = {str(token): -100 for token in question.end_tokens}
        return body


def _data(
    response: http.client.HTTPResponse, deadline_s: float, clock: Callable[[], float]
) -> Iterator[bytes]:
    """What the stream's messages hold, until its end.

    Raises
    ------
    AnswerFailed : a line beyond all reason, or no end in time
    """
    while line := response.readline(_LONGEST_LINE):
        if clock() > deadline_s:
            raise AnswerFailed("no end in time")
        if not line.endswith(b"\n"):
            raise AnswerFailed("a line without an end")
        if line.startswith(b"data:"):
            data = line[5:].strip()
            if data == b"[DONE]":
                return
            yield data
    raise AnswerFailed("the stream broke off")


def _message(data: bytes) -> dict[str, Any]:
    message = json.loads(data)
    if not isinstance(message, dict):
        raise AnswerFailed("a message that is no object")
    if "error" in message:
        raise AnswerFailed(str(message["error"])[:300])
    return message


def _content(message: dict[str, Any]) -> str:
    """The text of a message, empty if it has none."""
    choices = message.get("choices") or [{}]
    return str((choices[0].get("delta") or {}).get("content") or "")
