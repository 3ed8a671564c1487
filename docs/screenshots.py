"""Takes the pictures in docs/console/: every page of the console, with the default model answering.

    python docs/screenshots.py [PAGE ...]

Needs the extra `browser` and a Chromium. A few clients keep the server busy for a minute, so that
the charts have something to show.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "server"))

from console_browser import launched  # noqa: E402

OUT = ROOT / "docs" / "console"
SIZES = {"desktop": (1280, 860), "phone": (390, 844)}
SCHEMES = ("light", "dark")
PAGES = ("chat", "live", "requests", "machine")
COMMAND = ("serve", "smollm2", "--memory", "700MB", "--port", "0")
PROMPTS = (
    "Explain how a rainbow comes about.",
    "Write a short story about a captain and a storm.",
    "What is a prime number?",
    "List three rivers of Europe.",
    "Describe in detail how bread is made.",
)
QUESTION = "Write a Python function that reverses a string. Then say in two sentences how it works."


@contextmanager
def served() -> Iterator[str]:
    """The address of a server with the default model."""
    program = [sys.executable, "-c", "from trimtab.cli.main import main; main()"]
    with subprocess.Popen([*program, *COMMAND], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        threading.Thread(target=process.stderr.read, daemon=True).start()
        try:
            yield next(word for word in said.split() if word.startswith("http")).removesuffix("/v1")
        finally:
            process.terminate()


def ask(url: str, prompt: str, tokens: int, **more: Any) -> None:
    messages = [{"role": "user", "content": prompt}]
    body = {"messages": messages, "max_tokens": tokens, "temperature": 0.7, **more}
    kind = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), kind)
    urllib.request.urlopen(request, timeout=120).read()


def crowd(url: str, seconds: float) -> None:
    """Clients that come in waves for so long."""
    end = time.monotonic() + seconds

    def client(number: int) -> None:
        turn = number
        while time.monotonic() < end:
            # More of them in the middle of each half minute.
            if abs((end - time.monotonic()) % 30 - 15) < 13 - number:
                ask(url, PROMPTS[turn % len(PROMPTS)], 40 + turn * 37 % 120)
            else:
                time.sleep(0.5)
            turn += 1

    for number in range(8):
        threading.Thread(target=client, args=(number,), daemon=True).start()


def prepare(page: Any, url: str) -> None:
    """One conversation, one scored request, limits of the machine."""
    page.goto(url)
    page.locator("#head .model").filter(has_text="smollm2").wait_for()
    page.get_by_label("Temperature").fill("0.2")
    page.get_by_label("Most tokens").fill("220")
    page.get_by_label("Seed").fill("11")
    page.get_by_role("textbox", name="Message").fill(QUESTION)
    page.keyboard.press("Enter")
    page.locator(".cost").first.wait_for(timeout=60_000)
    page.goto(f"{url}/#/machine")
    page.locator(".facts dl").first.wait_for()
    button = page.get_by_role("button", name="Measure this machine")
    if button.is_visible():
        button.click()
        page.get_by_role("button", name="Measure again").wait_for()


def show(page: Any, url: str, name: str) -> None:
    """Bring a page to the state that its picture shows."""
    page.goto(f"{url}/#/{name}")
    page.wait_for_timeout(1300)
    if name == "chat":
        page.evaluate("() => document.activeElement.blur()")
    if name == "requests":
        page.locator(".rows tbody tr", has_text="done").first.locator("a").click()
        page.locator(".token-view").wait_for()
        if (button := page.get_by_role("button", name="Score them")).is_visible():
            button.click()
        page.locator(".tokens .chip.scored").nth(5).click()
        page.wait_for_timeout(300)
        # The time at the top of a wide page, the tokens on a phone.
        page.locator("main").evaluate(
            """(main) => {
              const below = main.querySelector(".intervals-box").offsetTop - 60;
              main.scrollTo(0, innerWidth > 900 ? 0 : below);
            }"""
        )


def main(wanted: list[str]) -> None:
    OUT.mkdir(exist_ok=True)
    with served() as url, launched() as browser:
        first = browser.new_context(viewport={"width": 1280, "height": 860})
        prepare(first.new_page(), url)
        conversation = first.storage_state()
        first.close()
        crowd(url, 75)
        time.sleep(62)
        for scheme in SCHEMES:
            for device, (width, height) in SIZES.items():
                context = browser.new_context(
                    viewport={"width": width, "height": height},
                    color_scheme=scheme,
                    has_touch=device == "phone",
                    storage_state=conversation,
                )
                for name in wanted or PAGES:
                    page = context.new_page()
                    show(page, url, name)
                    page.screenshot(path=str(OUT / f"{name}-{device}-{scheme}.png"))
                    page.close()
                context.close()


if __name__ == "__main__":
    main(sys.argv[1:])
