"""The reference pipeline reads what was written, as rapidocr's own program does with the same networks."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from pictures import OCR, spec_of, text_page, through

from trimtab.errors import BadFile
from trimtab.server.pipeline import networks
from trimtab.server.pipeline.answer import found_in
from trimtab.server.pipeline.ops.recognise import read
from trimtab.server.pipeline.runtime import Pipeline


@pytest.fixture(scope="module")
def ocr() -> Iterator[Pipeline]:
    made = Pipeline(spec_of(OCR, cores=2))
    yield made
    made.close()


def results(pipeline: Pipeline, body: bytes) -> list[dict[str, Any]]:
    job = through(pipeline, body)
    assert job.error is None
    return [dict(one) for one in found_in(job, pipeline.spec.gives)]


def alike(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def test_lines_are_read_in_order(ocr: Pipeline) -> None:
    page = text_page(lines=5, width=480)
    found = results(ocr, page.body)
    assert page.lines is not None
    assert len(found) == 5
    # Letters such as l and I look the same in this font; a line may err in one of them.
    assert all(alike(one["text"], line) > 0.85 for one, line in zip(found, page.lines, strict=True))
    assert all(one["score"] > 0.7 and one["box_score"] > 0.5 for one in found)
    tops = [one["box"][0][1] for one in found]
    assert tops == sorted(tops)


def test_a_page_upside_down_is_turned_and_read(ocr: Pipeline) -> None:
    page = text_page(lines=3, width=420, upside_down=True)
    found = results(ocr, page.body)
    assert page.lines is not None
    assert [one["turned"] for one in found] == [True] * 3
    for line, one in zip(page.lines, reversed(found), strict=True):
        assert alike(one["text"], line) > 0.85


def test_a_page_without_text_has_no_results(ocr: Pipeline) -> None:
    assert results(ocr, text_page(lines=0, width=200, height=150).body) == []


def test_boxes_are_in_pixels_of_the_whole_picture_when_it_was_decoded_smaller(ocr: Pipeline) -> None:
    page = text_page(lines=2, width=420, scale=3)
    stages = [{**OCR[0], "settings": {"side": 630}}, *OCR[1:]]
    small = Pipeline(spec_of(stages, cores=2))
    try:
        for one, other in zip(results(ocr, page.body), results(small, page.body), strict=True):
            # Half the picture, then at most 640 pixels of it: a box's edge is known to about 3 * 2 pixels.
            assert np.abs(np.subtract(one["box"], other["box"])).max() < 14
            assert alike(one["text"], other["text"]) > 0.85
    finally:
        small.close()


def test_it_reads_what_rapidocr_reads(ocr: Pipeline) -> None:
    rapidocr = pytest.importorskip("rapidocr")
    page = text_page(lines=4, width=736, height=736)  # at this size both detectors see the same pixels
    whole = Pipeline(spec_of([OCR[0], {**OCR[1], "settings": {"side": 736}}, *OCR[2:]], cores=2))
    try:
        ours = results(whole, page.body)
    finally:
        whole.close()
    theirs = rapidocr.RapidOCR(params={"Global.log_level": "error"})(page.body)
    assert len(ours) == len(theirs.txts)
    for one, box, text in zip(ours, theirs.boxes, theirs.txts, strict=True):
        assert np.abs(np.subtract(one["box"], box)).max() <= 3
        assert alike(one["text"], text) > 0.9


def test_repeats_and_blanks_are_no_characters() -> None:
    characters = np.array(["", "a", "b", " "], dtype=object)
    classes, chances = np.array([0, 1, 1, 0, 1, 2, 2, 3]), np.linspace(0.1, 0.8, 8)
    text, score = read(characters, classes, chances)
    assert text == "aab "
    assert score == pytest.approx(np.mean(chances[[1, 4, 5, 7]]))
    assert read(characters, np.zeros(3, int), np.ones(3)) == ("", 0.0)


def test_a_network_that_was_changed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    known = networks.NETWORKS["ppocr-direction"]
    changed = networks.Known(known.package, known.file, "0" * 64, known.about)
    monkeypatch.setitem(networks.NETWORKS, "ppocr-direction", changed)
    with pytest.raises(BadFile, match="sha256"):
        networks.file_of("ppocr-direction")
