"""What is told about a model without running it, and the word choice it is asked."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from trimtab.engine.runner import NativeRunner
from trimtab.evaluate.device import feasibility, word_choice
from trimtab.evaluate.device.engines import work_of
from trimtab.formats.source import open_source
from trimtab.models.config import config_from
from trimtab.models.packing import FORMATS


def first_letters(word: str) -> int:
    return int.from_bytes(word[:3].encode())


def test_items_are_the_same_for_the_same_seed_and_can_be_told_apart() -> None:
    items = word_choice.items(200, first_letters)
    assert items == word_choice.items(200, first_letters)
    assert items != word_choice.items(200, first_letters, seed=1)
    assert len({item.context for item in items}) > 190
    for item in items:
        assert len({first_letters(word) for word in item.words}) == word_choice.CHOICES
        assert len(item.context.split()) == word_choice.CONTEXT_WORDS
    places = [item.answer for item in items]
    # Drawn evenly: each place has 50 of 200, a spread of 6; 20 is five spreads away.
    assert all(20 < places.count(place) < 80 for place in range(word_choice.CHOICES))
    assert word_choice.digest(items) != word_choice.digest(items[1:])


def test_the_truth_follows_the_context_in_the_documentation() -> None:
    paragraphs = word_choice.documentation()
    for item in word_choice.items(20, first_letters):
        assert any(f"{item.context} {item.words[item.answer]}" in text for text in paragraphs)


@pytest.mark.parametrize("format", FORMATS)
def test_the_bytes_of_a_step_are_the_runners(format: str, default_model: Path) -> None:
    with closing(open_source(default_model)) as source:
        runner = NativeRunner.open(
            source,
            config_from(source),
            num_pages=4,
            max_rows=16,
            max_wanted=4,
            context=64,
            threads=1,
            format=format,
        )
    with closing(runner):
        work = work_of(default_model, format)
        assert work.step_bytes == pytest.approx(runner.step_bytes, rel=0.002)


def test_a_prediction_is_made_of_what_the_runner_states(default_model: Path) -> None:
    fits = [
        feasibility.predict_fit(default_model, 2**30, format=format, context=4096, before_weights=70 << 20)
        for format in ("bf16", "q8", "q4/16", "q4", "q4-sym")
    ]
    needs = [fit.needed_bytes for fit in fits]
    assert needs == sorted(needs, reverse=True)
    for fit in fits:
        exact = feasibility.predict_fit(
            default_model, fit.needed_bytes - 1, format="q4", context=4096, before_weights=70 << 20
        )
        assert fit.fits
        assert exact.fits == (exact.needed_bytes <= fit.needed_bytes - 1)
    longer = feasibility.predict_fit(default_model, 2**30, format="q4", context=8192, before_weights=70 << 20)
    assert longer.cache_bytes == 2 * fits[3].cache_bytes
    assert longer.process_bytes == 70 << 20


@pytest.mark.slow
def test_the_boundary_is_where_it_was_predicted(default_model: Path) -> None:
    before = feasibility.process_bytes(default_model)
    need = feasibility.predict_fit(
        default_model, 2**40, format="q4", context=2048, before_weights=before
    ).needed_bytes
    for margin, expected in ((1.15, True), (0.85, False)):
        answered, stopped = feasibility.try_fit(default_model, int(need * margin), format="q4", context=2048)
        assert answered is expected
        assert (stopped.ending == "out of memory") is not expected
