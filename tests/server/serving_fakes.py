"""A real engine on a make-believe model: it spells one sentence, letter by letter, wherever a prompt ends.

Run as a program it serves that model: `python serving_fakes.py [--step-ms 1] [--fail] [setting=value ...]`
prints the address on a line of its own.
"""

from __future__ import annotations

import argparse
import codecs
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from trimtab.engine.batch import Batch, StepResult
from trimtab.engine.engine import Engine, EngineSettings
from trimtab.engine.sampling import allowed_tokens
from trimtab.errors import BadFile, UsageError
from trimtab.server.console.inspector import Inspector
from trimtab.server.launch import serve
from trimtab.server.opening import bounds_of, inspector_of
from trimtab.server.served import Served
from trimtab.server.settings import ServeSettings

SENTENCE = "The quick brown fox – naïve, but kind – jumps over the lazy dog. ".encode()
START, END = 256, 257
VOCAB = 258
CONTEXT = 512
WIDTH = 8
LENGTH = 400  # an output ends at the latest where the position is a multiple of this


def hidden_states(tokens: Any) -> Any:
    """A token's hidden state, wherever it stands: (tokens, WIDTH)."""
    return np.cos(np.outer(np.asarray(tokens), np.arange(1, WIDTH + 1))).astype(np.float32)


class SpellingRunner:
    """The token of position p is letter p of the sentence; an odd seed shouts, a bias of 100 wins.

    Where a mask forbids that, it is one of those allowed, in turn.
    """

    config: Any = SimpleNamespace(vocab_size=VOCAB, context=CONTEXT, hidden=WIDTH, name="speller", layers=1)
    num_pages = 256
    max_rows = 256
    max_wanted = 64
    memory = {"weights": 1000, "scratch": 100, "pages": 10}  # noqa: RUF012

    def __init__(self, step_ms: float = 0.0, fail_on: int | None = None, sentence: bytes = SENTENCE) -> None:
        self.sentence = sentence
        self.step_ms = step_ms
        self.fail_on = fail_on
        self.steps = 0

    def step(self, batch: Batch) -> StepResult:
        self.steps += 1
        if self.step_ms:
            time.sleep(self.step_ms / 1000)
        if self.fail_on is not None and self.fail_on in batch.tokens:
            raise RuntimeError("a token that breaks the runner")
        count = len(batch.wanted)
        width = max((int(row["top_logprobs"]) for row in batch.sampling), default=0)
        tokens = np.empty(count, np.int32)
        for i, row in enumerate(batch.wanted):
            tokens[i] = self._token(int(batch.positions[row]) + 1, batch, i)
        top = np.tile(np.arange(max(width, 0), dtype=np.int32), (count, 1))
        top_logprobs = (-1.0 - top).astype(np.float32)
        hidden = None if batch.hidden is None else hidden_states(batch.tokens[batch.hidden])
        shouted = (tokens >= ord("A")) & (tokens <= ord("Z")) & (batch.sampling["score"] < 0)
        logprobs = np.where(shouted, -0.9, -0.5).astype(np.float32)
        return StepResult(tokens, logprobs, top, top_logprobs, hidden)

    def _token(self, position: int, batch: Batch, i: int) -> int:
        wanted, which = self._wish(position, batch, i), int(batch.sampling[i]["mask"])
        if not which or batch.mask is None:
            return wanted
        allowed = allowed_tokens(batch.mask[which - 1], VOCAB)
        return wanted if allowed[wanted] else int(np.flatnonzero(allowed)[position % allowed.sum()])

    def _wish(self, position: int, batch: Batch, i: int) -> int:
        sampling = batch.sampling[i]
        if sampling["score"] >= 0:
            return int(sampling["score"])
        entries = batch.adjust[batch.adjust_start[i] : batch.adjust_start[i + 1]]
        biased = [int(entry["token"]) for entry in entries if entry["bias"] >= 100]
        if biased:
            return biased[0]
        banned = {int(entry["token"]) for entry in entries if entry["bias"] < -100}
        if position % LENGTH == 0 and END not in banned:
            return END
        letter = self.sentence[position % len(self.sentence)]
        shouts = sampling["temperature"] > 0 and int(sampling["seed"]) % 2
        return ord(chr(letter).upper()) if shouts and letter < 128 else letter

    def logits(self, batch: Batch) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        pass


class ByteTokenizer:
    """One token a byte, and two special ones."""

    vocab_size = VOCAB
    bos_id = None
    eos_ids = frozenset({END})
    special_ids = frozenset({START, END})
    chat_template = tool_template = "made up, with a system turn"
    special_names = {"eos_token": "<end>"}  # noqa: RUF012

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise UsageError("text is not valid Unicode")
        tokens: list[int] = []
        for i, part in enumerate(text.split("<start>")):
            tokens += [START] * (i > 0)
            for j, piece in enumerate(part.split("<end>")):
                tokens += [END] * (j > 0) + list(piece.encode())
        return tokens

    def encode_chat(self, messages: Any, **options: Any) -> list[int]:
        return self.encode(self.chat(messages, **options))

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else b"<start>" if token == START else b"<end>"

    def token_text(self, token: int) -> str:
        return self.token_bytes(token).decode("utf-8", "replace")

    def decode(self, ids: Any, *, skip_special: bool = True) -> str:
        raw = b"".join(self.token_bytes(token) for token in ids if token < 256 or not skip_special)
        return raw.decode("utf-8", "replace")

    def stream(self) -> Any:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        return SimpleNamespace(
            push=lambda token: decoder.decode(self.token_bytes(token) if token < 256 else b""),
            flush=lambda: decoder.decode(b"", True),
        )

    def chat(self, messages: Any, *, add_generation_prompt: bool = True, tools: Any = None, **kw: Any) -> str:
        if kw.get("fail"):
            raise UsageError("the template refuses", param="messages")
        text = "".join(f"<start>{m['role']}\n{m['content']}<end>\n" for m in messages)
        return text + "<start>assistant\n" * add_generation_prompt


def make_served(
    runner: SpellingRunner | None = None, inspector: Inspector | None = None, **settings: Any
) -> Served:
    tokenizer: Any = ByteTokenizer()
    timed = inspector is not None and inspector.mode != "off"
    engine = Engine(runner or SpellingRunner(), tokenizer, EngineSettings(token_times=timed, **settings))
    names = frozenset({"default"})
    return Served("speller", engine, tokenizer, engine.context, names, inspector=inspector)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--step-ms", type=float, default=0.0)
    parser.add_argument("--load-s", type=float, default=0.0)
    parser.add_argument("--load-until", type=Path, help="the model is there when this file is")
    parser.add_argument("--fail", action="store_true")
    parser.add_argument("--text", default=SENTENCE.decode(), help="what the model says")
    parser.add_argument("settings", nargs="*")
    options = parser.parse_args()

    def load(settings: ServeSettings, on_words_read: Callable[[], None]) -> Served:
        on_words_read()
        time.sleep(options.load_s)
        while options.load_until is not None and not options.load_until.exists():
            time.sleep(0.05)
        if options.fail:
            raise BadFile("broken.gguf", "not a model", 4)
        runner = SpellingRunner(options.step_ms, ord("\x07"), options.text.encode())
        served = make_served(runner, inspector_of(settings), max_running=16, **bounds_of(settings))
        return replace(served, max_prompts=settings.max_prompts)

    pairs = (pair.split("=", 1) for pair in options.settings)
    given: dict[str, Any] = {
        name: json.loads(value) if value.isdigit() or value.startswith("[") else value
        for name, value in pairs
    }
    with tempfile.TemporaryDirectory() as folder:  # never the state of whoever runs the tests
        settings = ServeSettings(**({"port": 0, "state_dir": folder} | given))
        return serve(settings, load, lambda served, url: print(url, flush=True))


if __name__ == "__main__":
    sys.exit(main())
