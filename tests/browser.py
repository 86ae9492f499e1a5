"""A real browser for the tests of the page, which notes whatever goes wrong in it."""

import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import BrowserType, Page, async_playwright

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run", "--disable-quic"),
]
PATIENCE_MS = 30_000


def program(chromium: BrowserType) -> str:
    """Where a browser lies. Without one the test is skipped, but by CI it may not be."""
    found = [path for path in map(shutil.which, PROGRAMS) if path]
    if Path(chromium.executable_path).exists():
        found.append(chromium.executable_path)
    if not found:
        reason = "no browser: install Debian's `chromium`, or run `playwright install chromium`"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return found[0]


@asynccontextmanager
async def browsing(
    url: str, *, width: int = 1280, height: int = 800, dark: bool = False, refused: str = ""
) -> AsyncIterator[Page]:
    """The page at `url`, without motion. It must meet no error but answers of the statuses in the pattern `refused`,
    and ask nobody else for anything.
    """
    faults: list[str] = []

    def note(kind: str, text: str) -> None:
        if not (refused and re.search(rf"status of ({refused})\b", text)):
            faults.append(f"{kind}: {text}")

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program(playwright.chromium), args=ARGUMENTS)
        context = await browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
        )
        context.set_default_timeout(PATIENCE_MS)
        page = await context.new_page()
        page.on("console", lambda message: note("console", message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: note("error", str(error)))
        page.on("request", lambda asked: None if asked.url.startswith((url, "blob:")) else note("request", asked.url))
        try:
            await page.goto(url)
            yield page
        finally:
            await browser.close()
    assert not faults


async def faults_of(page: Page) -> list[str]:
    """What axe-core finds to be serious or critical on the page as it is."""
    found = (await Axe().run(page)).response["violations"]
    return [
        f"{fault['id']}: {node['html']}"
        for fault in found
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]
