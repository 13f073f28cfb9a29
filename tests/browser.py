"""A browser for tests of pages: the system's Chromium without a window, driven by Playwright."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
WITH_WEBGL = tuple(flag for flag in FLAGS if flag != "--disable-gpu") + (
    *("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
)
WITHOUT_WEBGL = (*FLAGS, "--disable-3d-apis")


@contextmanager
def started(flags: Sequence[str] = FLAGS) -> Iterator[Any]:
    """A running browser. The test is skipped where there is none.

    Args:
        flags: Flags of Chromium.
    """
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser here ({', '.join(NAMES)}): make browser")
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=list(flags))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Any, file: Path, **options: Any) -> Iterator[Any]:
    """A page of a file. At its end there must have been no error, no message in its console, and no request.

    Args:
        browser: See `started`.
        file: The page.
        **options: Options of Playwright's ``new_page``, such as ``viewport`` or ``color_scheme``.
    """
    page = browser.new_page(**{"viewport": {"width": 1400, "height": 900}, **options})
    wrong: list[str] = []

    def heard(message: Any) -> None:
        if "GL Driver Message" not in message.text:  # hints about speed, of drawing without a graphics card
            wrong.append(f"{message.type}: {message.text}")

    page.on("console", heard)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    inner = (file.as_uri(), "data:", "blob:")
    page.on("request", lambda request: None if request.url.startswith(inner) else wrong.append(request.url))
    try:
        page.goto(file.as_uri())
        yield page
        assert not wrong, wrong
    finally:
        page.close()


def until(check: Callable[[], Any], seconds: float = 60) -> None:
    """Wait until a condition holds. Playwright's own way is refused by the pages' Content-Security-Policy."""
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.05)
