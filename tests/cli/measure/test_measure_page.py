"""The page of a profile, in a headless Chromium: it renders, fits, loads nothing, and runs nobody's words."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from console_browser import launched, program
from whole_profile import HOSTILE, whole_profile

from trimtab.cli.measure import svg
from trimtab.cli.measure.page import page
from trimtab.machine import figures
from trimtab.machine.figures import Cost, Curve, Roofline
from trimtab.machine.profile import Profile

TITLES = ("Roofline, 2 threads", "Memory, over the working set", "Latency ladder", "Disk, reads", "Sections")


def drawings(profile: Profile) -> list[str]:
    text = page(profile)
    return [f"<svg{part.split('</svg>')[0]}</svg>" for part in text.split("<svg")[1:]]


def test_every_drawing_is_well_formed_and_inside_its_frame() -> None:
    found = drawings(whole_profile(HOSTILE))
    assert len(found) == 6
    for text in found:
        root = ET.fromstring(text)
        _, _, wide, high = map(float, root.attrib["viewBox"].split())
        for circle in root.iter("circle"):
            assert 0 <= float(circle.attrib["cx"]) <= wide
            assert 0 <= float(circle.attrib["cy"]) <= high


def test_an_empty_profile_is_a_page_without_charts() -> None:
    text = page(Profile({}, {}))
    assert "<svg" not in text
    assert "nothing measured yet" in text


def test_degenerate_curves_are_drawn() -> None:
    for points in ([(1.0, 1.0)], [(1.0, 5.0), (2.0, 5.0)], [(0.0, 1.0), (4096.0, 2.0)]):
        ET.fromstring(svg.lines([Curve("a", points)], str, str, "x", "y", "t"))
    assert svg.lines([Curve("a", [(0.0, 0.0)])], str, str, "x", "y", "t") == ""
    ET.fromstring(svg.ladder([Cost("a", 1e-9, "memory")], "t"))
    ET.fromstring(svg.roofline(Roofline(1, [("memory", 1e10)], [("int8", 1e11)]), "t"))


def test_figures_name_units() -> None:
    for value, text in ((0, "0 op/s"), (472.7e9, "473 Gop/s"), (999_999, "1 Mop/s"), (1e12, "1 Top/s")):
        assert figures.si(value, "operations/s") == text
    for seconds, text in ((3.2e-9, "3.2 ns"), (38e-6, "38 µs"), (0.1554, "155 ms"), (2.5, "2.5 s")):
        assert figures.si(seconds, "s") == text
    assert [figures.size(each) for each in (0, 1023, 1 << 20, None)] == ["0 B", "1023 B", "1 MiB", ""]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    pytest.importorskip("playwright.sync_api", reason="the extra `browser` is not installed")
    if program() is None:
        pytest.skip("no Chromium here")
    with launched() as found:
        yield found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_renders_in_a_browser(browser: Any, tmp_path: Path, scheme: str, width: int) -> None:
    path = tmp_path / "machine.html"
    path.write_text(page(whole_profile(HOSTILE)), encoding="utf-8")
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    try:
        view, wrong, asked = context.new_page(), [], []
        view.on("console", lambda message: wrong.append(message.text))
        view.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        view.on("request", lambda request: asked.append(request.url))
        view.goto(path.as_uri())
        headings = view.locator("h2").all_inner_texts()
        assert set(TITLES) <= set(headings)
        assert view.locator("h1").inner_text() == HOSTILE
        assert view.locator("svg").count() == 6
        assert "busy machine" in view.locator(".warn").inner_text()
        # Charts scroll in themselves; the page does not.
        assert view.evaluate("document.documentElement.scrollWidth") <= width
        ink, paper = (
            view.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor")
        )
        assert (brightness(ink) < brightness(paper)) == (scheme == "light")
        overlaps = view.evaluate(OVERLAPS)
        assert overlaps == []
        view.locator("summary").first.click()
        assert view.locator("details table").first.is_visible()
        assert (wrong, asked) == ([], [path.as_uri()])
    finally:
        context.close()


def brightness(colour: str) -> int:
    return sum(int(word) for word in colour[colour.index("(") + 1 : -1].split(",")[:3])


# Words of a chart that lie on each other; those on a slope only seem to, as boxes do not turn.
OVERLAPS = """() => {
  const found = [];
  for (const drawing of document.querySelectorAll('svg')) {
    const texts = [...drawing.querySelectorAll('text:not(.slope)')];
    const words = texts.map(t => [t.textContent, t.getBoundingClientRect()]);
    words.forEach(([a, p], i) => words.slice(i + 1).forEach(([b, q]) => {
      const across = Math.min(p.right, q.right) - Math.max(p.left, q.left);
      const down = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
      if (across > 2 && down > 4) found.push(`${a} / ${b}`);
    }));
  }
  return found;
}"""
