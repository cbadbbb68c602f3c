"""A real Chromium without a window, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str:
    """Its path; without one, tests are skipped, but not in CI."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium: apt-get install chromium")
        pytest.skip("no Chromium")
    return found


@contextmanager
def browser() -> Iterator[Any]:
    """The browser; in containers its own sandbox cannot be had."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        instance = started.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        try:
            yield instance
        finally:
            instance.close()


class Page:
    """A page that has been opened, with whatever it complained about.

    Args:
        instance: The browser.
        url: Of the page.
        width: Of its window, in CSS pixels.
        dark: The reader's wish.
    """

    def __init__(self, instance: Any, url: str, width: int = 1100, dark: bool = False) -> None:
        scheme = "dark" if dark else "light"
        self.page = instance.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        # Of a busy machine as well.
        self.page.set_default_timeout(240_000)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._hear)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(url)

    def _hear(self, message: Any) -> None:
        if message.type == "error":
            self.complaints.append(message.text)

    def draw_everything(self) -> None:
        """Scrolls past all pictures, as they are drawn when they are seen."""
        for place in self.page.query_selector_all(".plot"):
            place.scroll_into_view_if_needed()
        self.page.wait_for_function(
            "[...document.querySelectorAll('.plot')].every((p) => p.dataset.drawn)"
        )

    def is_as_wide_as_its_window(self) -> bool:
        widths = "[document.documentElement.scrollWidth, window.innerWidth]"
        needed, given = self.page.evaluate(widths)
        return bool(needed <= given)

    def column(self, heading: str, table: str = "#leaderboard table") -> list[str]:
        """What stands under a heading: the values behind it where there are such."""
        script = """([table, heading]) => {
          const t = document.querySelector(table);
          const names = [...t.tHead.rows[0].cells].map((c) => c.textContent);
          const i = names.indexOf(heading);
          return [...t.tBodies[0].rows].map((r) => r.cells[i].dataset.v ?? r.cells[i].textContent);
        }"""
        found: list[str] = self.page.evaluate(script, [table, heading])
        return found

    def press(self, heading: str) -> None:
        headings = self.page.locator("#leaderboard th button")
        headings.get_by_text(heading, exact=True).click()


def file_url(path: Path) -> str:
    return path.absolute().as_uri()
