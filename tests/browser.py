"""A real browser for the tests of the page, which notes whatever goes wrong in it."""

import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, BrowserType, FilePayload, Locator, Page, ViewportSize, async_playwright

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run", "--disable-quic"),
]
PATIENCE_MS = 30_000
PAINTED = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
"""Before it is, a browser drops keys."""


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
async def started() -> AsyncIterator[Browser]:
    """A browser for a whole file of tests."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program(playwright.chromium), args=ARGUMENTS)
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def page_at(browser: Browser, url: str, *, width: int = 1280, refused: str = "") -> AsyncIterator[Page]:
    """The page at `url`, as a new visitor sees it, without motion.

    It must meet no error but requests that fail as the pattern `refused` says, and ask nobody else for anything.
    """
    faults: list[str] = []

    def note(kind: str, text: str) -> None:
        if not (refused and re.search(rf"^Failed to load resource: .*({refused})", text)):
            faults.append(f"{kind}: {text}")

    viewport: ViewportSize = {"width": width, "height": 800}
    context = await browser.new_context(viewport=viewport, reduced_motion="reduce")
    try:
        context.set_default_timeout(PATIENCE_MS)
        page = await context.new_page()
        page.on("console", lambda message: note("console", message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: note("error", str(error)))
        page.on("request", lambda asked: None if asked.url.startswith((url, "blob:")) else note("request", asked.url))
        await page.goto(url)
        await page.evaluate(PAINTED)
        yield page
    finally:
        await context.close()
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


def card(page: Page, name: str) -> Locator:
    """A photo's card."""
    return page.get_by_role("listitem").filter(has_text=name)


async def give(page: Page, *files: FilePayload) -> None:
    """Choose files, as a person does in the dialog."""
    await page.locator("#files").set_input_files(list(files))
