"""A headless Chromium for the console's tests, found or done without."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def program() -> str | None:
    """Where a Chromium lies: `TRIMTAB_BROWSER`, or one on the path."""
    named = os.environ.get("TRIMTAB_BROWSER")
    return named or next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def launched() -> Iterator[Any]:
    """A running browser."""
    from playwright.sync_api import sync_playwright

    # Containers often run as root, where Chromium's own sandbox refuses to start.
    flags = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program(), args=flags)
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A page that remembers what must not happen: errors, windows that pop up, requests to elsewhere."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.url = url
        self.wrong: list[str] = []
        self.asked: list[str] = []
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}} | options)
        self.context.set_default_timeout(15_000)
        self.page = self.context.new_page()
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("dialog", self._popped)
        self.context.on("request", self._asked)
        self.forgive: tuple[str, ...] = ()

    def open(self, page: str = "chat") -> Any:
        """Go to one of the console's pages."""
        self.page.goto(f"{self.url}/#/{page}")
        self.page.locator("#head nav a[aria-current]").wait_for()
        return self.page

    def close(self) -> None:
        self.context.close()
        unforgiven = [text for text in self.wrong if not any(part in text for part in self.forgive)]
        assert not unforgiven, unforgiven

    def _said(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.wrong.append(f"{message.type}: {message.text}")

    def _popped(self, dialog: Any) -> None:
        self.wrong.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _asked(self, request: Any) -> None:
        self.asked.append(request.url)
        if not request.url.startswith(f"{self.url}/"):
            self.wrong.append(f"asked for {request.url}")
