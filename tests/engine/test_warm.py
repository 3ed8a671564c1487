"""Long prompts across a restart of the engine: less is computed, the same comes out, salts stay apart.

The fake runner keeps tokens where keys and values would be and checks every context it reads, so a page that
came back wrong, or for the wrong prompt, changes the output or fails there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_runner import VOCAB, FakeRunner, FakeTokenizer, alone

from trimtab.engine.batch import PAGE_TOKENS
from trimtab.engine.engine import Engine, EngineSettings
from trimtab.engine.prefix_store import PrefixStore
from trimtab.engine.sampling import SamplingParams
from trimtab.engine.warm import BATCH_PAGES, LONG_PAGES

CONTEXT = 1024
PAGES = 2 * LONG_PAGES + 3
PREFIX = np.random.default_rng(3).integers(4, VOCAB, PAGES * PAGE_TOKENS).tolist()
GREEDY = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)


class PagedRunner(FakeRunner):
    """Its pages can be read and written from outside."""

    def page(self, number: int) -> Any:
        return self.pages[number].view(np.uint8)


def started(folder: Path, *, model: bytes = b"model", most: int = 10**7, pages: int = 200) -> Engine:
    runner = PagedRunner(num_pages=pages, context=CONTEXT, max_rows=64)
    store = PrefixStore(folder, most, page_bytes=runner.page(0).nbytes, identity=lambda: model)
    until(lambda: store.writable)
    settings = EngineSettings(context=CONTEXT, drafting=False)
    return Engine(runner, FakeTokenizer(), settings, prefixes=store)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def ask(engine: Engine, prompt: list[int], salt: str = "") -> int:
    """Prompt tokens that came from a cache; the output is checked."""
    completion = engine.submit(prompt, GREEDY, salt=salt).result(30)
    assert completion.token_ids == alone(prompt, GREEDY, context=CONTEXT).tokens
    return completion.cached_tokens


def quiet(engine: Engine) -> None:
    """Wait until what is to be written has been written."""
    until(lambda: engine.call(lambda: not engine._warm._chains and not engine._warm._saving))  # type: ignore[union-attr]


@pytest.mark.parametrize("how", ["when idle", "at the end"])
def test_a_shared_prefix_survives_a_restart(tmp_path: Path, how: str) -> None:
    with started(tmp_path) as engine:
        assert ask(engine, [*PREFIX, 5]) == 0
        assert engine.stats()["prefix_pages_written"] == 0  # one request has shared it with nobody
        assert ask(engine, [*PREFIX, 6]) == len(PREFIX)
        if how == "when idle":
            quiet(engine)
            assert engine.stats()["prefix_pages_written"] == PAGES
            assert engine.stats()["pages_held"] == 0
    with started(tmp_path) as engine:
        assert ask(engine, [*PREFIX, 7]) == len(PREFIX)
        stats = engine.stats()
        assert (stats["prefix_pages_read"], stats["prompt_tokens"]) == (PAGES, 1)
        assert ask(engine, [*PREFIX, 8]) == len(PREFIX)  # now from memory
        assert engine.stats()["prefix_pages_read"] == PAGES
        assert engine.stats()["pages_held"] == 0


def test_salts_and_models_never_mix(tmp_path: Path) -> None:
    with started(tmp_path) as engine:
        for _ in range(2):
            ask(engine, [*PREFIX, 5], "mine")
    with started(tmp_path) as engine:
        assert ask(engine, [*PREFIX, 5], "yours") == 0
        assert ask(engine, [*PREFIX, 5]) == 0
        assert ask(engine, [*PREFIX, 5], "mine") == len(PREFIX)
    with started(tmp_path, model=b"another") as engine:
        assert ask(engine, [*PREFIX, 5], "mine") == 0
        assert engine.stats()["prefix_pages_read"] == 0


def test_short_prefixes_are_not_kept(tmp_path: Path) -> None:
    short = PREFIX[: (LONG_PAGES - 1) * PAGE_TOKENS]
    with started(tmp_path) as engine:
        for token in (5, 6, 7):
            ask(engine, [*short, token])
    with started(tmp_path) as engine:
        assert ask(engine, [*short, 5]) == 0


def test_what_is_in_memory_is_not_read_again(tmp_path: Path) -> None:
    with started(tmp_path) as engine:
        for token in (5, 6):
            ask(engine, [*PREFIX, token])
    with started(tmp_path) as engine:
        half = PREFIX[: 5 * PAGE_TOKENS]
        assert ask(engine, [*half, 9]) == 0
        assert ask(engine, [*PREFIX, 7]) == len(PREFIX)
        assert engine.stats()["prefix_pages_read"] == PAGES - 5


def test_many_requests_for_one_prefix_read_it_once(tmp_path: Path) -> None:
    with started(tmp_path) as engine:
        for token in (5, 6):
            ask(engine, [*PREFIX, token])
    with started(tmp_path) as engine:
        prompts = [[*PREFIX, 4 + number] for number in range(8)]
        handles = [engine.submit(prompt, GREEDY) for prompt in prompts]
        for handle, prompt in zip(handles, prompts, strict=True):
            completion = handle.result(30)
            assert completion.cached_tokens == len(PREFIX)
            assert completion.token_ids == alone(prompt, GREEDY, context=CONTEXT).tokens
        assert engine.stats()["prefix_pages_read"] == PAGES
        assert engine.stats()["pages_held"] == 0


def test_a_spoiled_page_in_the_middle_is_computed_again(tmp_path: Path) -> None:
    with started(tmp_path) as engine:
        for token in (5, 6):
            ask(engine, [*PREFIX, token])
    with started(tmp_path) as engine:
        digests = engine.submit([*PREFIX, 5], GREEDY)._sequence.digests
        middle = digests[20]  # the end of the 20th page
        (path,) = tmp_path.glob(f"*/{middle.hex()}.page")
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with started(tmp_path) as engine:
        assert ask(engine, [*PREFIX, 7]) == 19 * PAGE_TOKENS
        assert ask(engine, [*PREFIX, 8]) == len(PREFIX)
    with started(tmp_path) as engine:  # the second of them had it written anew
        assert ask(engine, [*PREFIX, 7]) == len(PREFIX)


def test_a_pool_without_room_does_without(tmp_path: Path) -> None:
    with started(tmp_path) as engine:
        for token in (5, 6):
            ask(engine, [*PREFIX, token])
    with started(tmp_path, pages=PAGES + 4) as engine:
        busy = engine.submit([9, 9, 9], SamplingParams(temperature=0.0, max_tokens=60, ignore_eos=True))
        assert ask(engine, [*PREFIX, 7]) in (0, len(PREFIX))
        busy.result(30)
        assert engine.stats()["pages_held"] == 0


def test_cancelled_while_its_pages_are_read(tmp_path: Path) -> None:
    with started(tmp_path) as engine:
        for token in (5, 6):
            ask(engine, [*PREFIX, token])
    with started(tmp_path) as engine:
        for _ in range(10):
            handle = engine.submit([*PREFIX, 7], GREEDY)
            handle.cancel()
            assert handle.result(30).finish_reason in ("cancelled", "length")
        until(lambda: engine.call(lambda: not engine._warm._loading))  # type: ignore[union-attr]
        assert engine.stats()["pages_held"] == 0
        assert ask(engine, [*PREFIX, 8]) == len(PREFIX)


def test_closed_while_its_pages_are_read(tmp_path: Path) -> None:
    with started(tmp_path) as engine:
        for token in (5, 6):
            ask(engine, [*PREFIX, token])
    for _ in range(5):
        engine = started(tmp_path)
        engine.submit([*PREFIX, 7], GREEDY)
        engine.close()
        assert not engine._thread.is_alive()


def test_a_bound_too_small_ends_the_writing(tmp_path: Path) -> None:
    with started(tmp_path, most=BATCH_PAGES * 200) as engine:
        for token in (5, 6):
            ask(engine, [*PREFIX, token])
        quiet(engine)
        assert engine.stats()["prefix_disk_bytes"] <= BATCH_PAGES * 200
        assert ask(engine, [*PREFIX, 7]) == len(PREFIX)
