"""Takes the pictures in docs/console/: every page of the console, with the default model answering.

    python docs/screenshots.py [PAGE ...]

Needs the extra `browser` and a Chromium. A few clients keep the server busy for a minute and a half, so that
the charts have something to show. Pillow, where it is installed, makes the files a third of their size.
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


def crowd(url: str, seconds: float) -> list[threading.Thread]:
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

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    return threads


def save(page: Any, name: str) -> None:
    path = OUT / f"{name}.png"
    page.screenshot(path=str(path))
    try:
        from PIL import Image
    except ImportError:
        return
    with Image.open(path) as picture:
        flat = picture.convert("RGB").quantize(200, dither=Image.Dither.NONE)
    flat.save(path, optimize=True)


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
        page.locator("main").evaluate("(main) => main.scrollTo(0, 0)")


def main(wanted: list[str]) -> None:
    OUT.mkdir(exist_ok=True)
    with served() as url, launched() as browser:
        for scheme in SCHEMES:
            for device, (width, height) in SIZES.items():
                size = {"width": width, "height": height}
                options: dict[str, Any] = {"viewport": size, "color_scheme": scheme}
                context = browser.new_context(**options, has_touch=device == "phone")
                page = context.new_page()
                page.set_viewport_size({"width": 1280, "height": height})
                prepare(page, url)
                page.set_viewport_size(size)
                threads = crowd(url, 95 if (scheme, device) == ("light", "desktop") else 9)
                time.sleep(85 if (scheme, device) == ("light", "desktop") else 1)
                for name in wanted or PAGES:
                    show(page, url, name)
                    save(page, f"{name}-{device}-{scheme}")
                for thread in threads:
                    thread.join()
                context.close()


if __name__ == "__main__":
    main(sys.argv[1:])
