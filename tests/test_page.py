"""The page at `/` in a real browser, with the whole service behind it: what a person, a keyboard and a reader meet."""

import base64
import re
from collections.abc import AsyncIterator, Iterator
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, FilePayload, Locator, Page, expect

from service.api.webpage import FOLDER
from tests.browser import PATIENCE_MS, card, faults_of, give, page_at, started
from tests.pictures import photo
from tests.running import StubService, running_stub

LARGE: FilePayload = {"name": "my large photo.png", "mimeType": "image/png", "buffer": photo(96, 64)}
SMALL: FilePayload = {"name": "small.jpg", "mimeType": "image/jpeg", "buffer": photo(20, 30, "JPEG")}
TEXT: FilePayload = {"name": "words.heic", "mimeType": "image/heic", "buffer": b"no picture at all"}

WATCH = """() => {
  window.seen = { states: [], tiles: [], fractions: [] };
  const watched = { subtree: true, childList: true, attributes: true, characterData: true };
  new MutationObserver(() => {
    const card = document.querySelector('.card');
    const tiles = /(\\d+) of (\\d+) tiles/.exec(card.querySelector('.status').textContent);
    const { value } = card.querySelector('progress');
    const note = (list, what) => list.at(-1) !== what && list.push(what);
    note(seen.states, card.dataset.state);
    if (tiles) note(seen.tiles, Number(tiles[1]));
    if (card.dataset.state === 'running') note(seen.fractions, value);
  }).observe(document.querySelector('#list'), watched);
}"""
"""Notes how the first photo stands, as often as that changes."""

COUNT_ADDRESSES = """() => {
  window.held = new Set();
  const { createObjectURL, revokeObjectURL } = URL;
  URL.createObjectURL = (blob) => { const url = createObjectURL.call(URL, blob); held.add(url); return url; };
  URL.revokeObjectURL = (url) => { held.delete(url); revokeObjectURL.call(URL, url); };
}"""
"""Notes which files the page holds by an address."""

HAND_OVER = """([kind, name, text]) => {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name, { type: 'image/png' }));
  document.body.dispatchEvent(kind === 'paste'
    ? new ClipboardEvent('paste', { clipboardData: data, bubbles: true })
    : new DragEvent('drop', { dataTransfer: data, bubbles: true }));
}"""


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with started() as made:
        yield made


@pytest.fixture(scope="module")
def service() -> Iterator[StubService]:
    with TemporaryDirectory(prefix="omgsr-") as folder, running_stub(Path(folder)) as running:
        yield running


async def ended(page: Page, *files: FilePayload, state: str = "done") -> None:
    for file in files:
        await expect(card(page, file["name"])).to_have_attribute("data-state", state, timeout=PATIENCE_MS)


async def saved(page: Page, button: Locator) -> tuple[str, bytes]:
    async with page.expect_download() as coming:
        await button.click()
    download = await coming.value
    return download.suggested_filename, Path(await download.path()).read_bytes()


async def test_two_photos_from_the_file_to_the_download(browser, service):
    async with page_at(browser, service.url) as page:
        jobs: list[str] = []
        page.on("response", lambda told: jobs.append(told.headers["x-job-id"]) if told.status == 202 else None)
        await page.evaluate(WATCH)
        await give(page, LARGE, SMALL)
        await ended(page, LARGE, SMALL)
        seen = await page.evaluate("seen")
        results = [httpx.get(f"{service.url}/v1/jobs/{job}/result", trust_env=False) for job in jobs]
        made = {re.search(r"UTF-8''(.*)", each.headers["content-disposition"])[1]: each.content for each in results}
        one = await saved(page, page.locator("#save"))
        name, archive = await saved(page, page.locator("#save-all"))

    slow = ("uploading", "running", "done")  # the states that none can miss
    assert [state for state in seen["states"] if state in slow] == list(slow)
    assert len(seen["tiles"]) > 3
    assert seen["tiles"] == sorted(seen["tiles"])
    assert len(seen["fractions"]) > 3
    assert seen["fractions"] == sorted(seen["fractions"])
    assert one == ("my large photo_4x.png", made["my%20large%20photo_4x.png"])
    with ZipFile(BytesIO(archive)) as opened:
        assert (name, opened.testzip()) == ("photos.zip", None)
        packed = {entry: opened.read(entry) for entry in opened.namelist()}
    assert packed == {key.replace("%20", " "): content for key, content in made.items()}


async def test_the_line_moves_by_keyboard_and_by_mouse(browser, service):
    async with page_at(browser, service.url) as page:
        await give(page, LARGE)
        line = page.get_by_role("slider", name="Line between before and after")
        await expect(line).to_have_attribute("aria-valuenow", "50")
        await line.focus()
        for key, value in (("ArrowLeft", 49), ("PageUp", 59), ("Home", 0), ("ArrowRight", 1), ("End", 100)):
            await line.press(key)
            await expect(line).to_have_attribute("aria-valuenow", str(value))
        picture = await page.locator(".after img").bounding_box()
        assert picture
        middle = picture["y"] + picture["height"] / 2
        await page.mouse.move(picture["x"] + picture["width"] - 1, middle)
        await page.mouse.down()
        await page.mouse.move(picture["x"] + picture["width"] / 4, middle, steps=4)
        await page.mouse.up()
        await expect(line).to_have_attribute("aria-valuetext", "25 % before, 75 % after")
        knob = await page.locator(".knob").bounding_box()
        assert knob
        assert knob["x"] + knob["width"] / 2 == pytest.approx(picture["x"] + picture["width"] / 4, abs=2)


async def test_zoom_by_wheel_keys_and_buttons_and_pan(browser, service):
    async with page_at(browser, service.url) as page:
        await give(page, LARGE)
        level, picture = page.locator("#zoom-one"), page.locator(".after img")
        await expect(page.locator("#zoom-fit")).to_be_disabled()
        whole = await level.text_content()
        await page.locator("#compare").focus()
        await page.keyboard.press("1")
        await expect(level).to_have_text(whole)  # its own size is smaller than the frame: it is shown whole
        box = await picture.bounding_box()
        assert box
        at = (box["x"] + box["width"] / 4, box["y"] + box["height"] / 4)
        await page.mouse.move(*at)
        await page.mouse.wheel(0, -100)
        larger = await picture.bounding_box()
        assert larger
        assert larger["width"] > 1.2 * box["width"]
        assert (at[0] - larger["x"]) / larger["width"] == pytest.approx(0.25, abs=0.01)  # what is there stays there
        await page.locator("#zoom-in").click()
        await page.locator("#compare").focus()
        before = (await picture.bounding_box())["x"]
        await page.keyboard.press("ArrowLeft")
        assert (await picture.bounding_box())["x"] > before
        await page.keyboard.press("0")
        await expect(level).to_have_text(whole)
        assert (await picture.bounding_box())["width"] == pytest.approx(box["width"])


async def test_two_fingers_enlarge_and_one_pans(browser, service):
    async with page_at(browser, service.url, width=375) as page:
        await give(page, SMALL)
        await ended(page, SMALL)
        picture = page.locator(".after img")
        frame, whole = await page.locator("#compare").bounding_box(), await picture.bounding_box()
        assert frame
        assert whole
        x, y = frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 4
        session = await page.context.new_cdp_session(page)

        async def touch(kind: str, *places: float) -> None:
            points = [{"x": place, "y": y, "id": finger} for finger, place in enumerate(places)]
            await session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        await touch("touchStart", x - 30, x + 30)
        await touch("touchMove", x - 60, x + 60)
        await touch("touchEnd")
        larger = await picture.bounding_box()
        assert larger
        assert larger["width"] == pytest.approx(2 * whole["width"], rel=0.01)
        await touch("touchStart", x - 60)
        await touch("touchMove", x - 80)
        await touch("touchEnd")
        assert (await picture.bounding_box())["x"] == pytest.approx(larger["x"] - 20, abs=1)


async def test_by_keyboard_alone(browser, service):
    async with page_at(browser, service.url) as page:
        await page.evaluate(COUNT_ADDRESSES)
        choose = page.get_by_role("button", name="Choose photos")
        async with page.expect_file_chooser() as coming:
            await choose.focus()
            await expect(choose).to_be_focused()
            await page.keyboard.press("Enter")
        await (await coming.value).set_files([SMALL])
        await ended(page, SMALL)
        reached = set()
        for _ in range(30):
            await page.keyboard.press("Tab")
            reached.add(await page.evaluate("document.activeElement.id || document.activeElement.className"))
        wanted = {"compare", "line", "zoom-in", "zoom-one", "save", "model", "scale", "strength", "add", "open"}
        assert wanted <= reached, wanted - reached
        await expect(page.get_by_role("log")).to_contain_text("small.jpg is ready")
        assert await page.evaluate("held.size") == 2
        await page.get_by_role("button", name="Remove small.jpg").focus()
        await page.keyboard.press("Enter")
        await expect(choose).to_be_focused()
        assert await page.evaluate("held.size") == 0


@pytest.mark.parametrize("kind", ["paste", "drop"])
async def test_photos_are_dropped_and_pasted(browser, service, kind):
    async with page_at(browser, service.url) as page:
        await page.evaluate(HAND_OVER, [kind, "handed.png", base64.b64encode(photo()).decode()])
        await expect(page.get_by_role("listitem")).to_have_count(1)
        await expect(page.locator(".card[data-state=done]")).to_contain_text("160 × 96")


async def test_settings_are_what_the_photo_is_made_with(browser, service):
    async with page_at(browser, service.url) as page:
        await expect(page.get_by_label("Model")).to_have_value("stub")
        await page.get_by_label("Scale").fill("2.5")
        await page.get_by_text("JPEG").click()
        await give(page, SMALL)
        await ended(page, SMALL)
        await expect(card(page, "small.jpg")).to_contain_text("50 × 75")
        await page.get_by_label("Scale").fill("2")
        await page.get_by_role("button", name="Redo with new settings").click()
        await expect(card(page, "small.jpg")).to_contain_text("40 × 60")
        assert (await saved(page, page.locator("#save")))[0] == "small_2x.jpg"


async def test_axe_finds_no_serious_fault_and_nothing_is_cut_off(browser, service):
    async with page_at(browser, service.url, refused="415") as page:
        assert await faults_by_look(page) == {}
        await give(page, SMALL, TEXT)
        await ended(page, SMALL)
        await ended(page, TEXT, state="failed")
        assert await faults_by_look(page) == {}
        await card(page, "words.heic").locator(".open").click()
        assert await faults_by_look(page) == {}


async def faults_by_look(page: Page) -> dict[str, list[str]]:
    """What axe finds in light and dark at each width; and it must not scroll sideways."""
    found = {}
    for width in (320, 375, 900, 1280):
        await page.set_viewport_size({"width": width, "height": 800})
        assert await page.evaluate("document.documentElement.scrollWidth") == width
        for scheme in ("light", "dark") if width in (375, 1280) else ():
            await page.emulate_media(color_scheme=scheme)
            if faults := await faults_of(page):
                found[f"{scheme} {width}"] = faults
    return found


async def test_the_files_of_the_page_have_their_types_and_are_asked_for_once(service):
    async with httpx.AsyncClient(base_url=service.url, trust_env=False) as client:
        for path in ["/", *(f"/page/{file.name}" for file in FOLDER.iterdir())]:
            answer = await client.get(path)
            kind = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}.get(path.rpartition(".")[2])
            assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, kind or "text/html")
            policy = answer.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; script-src 'self';")
            assert "unsafe" not in policy
            again = await client.get(path, headers={"If-None-Match": answer.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
            assert (await client.head(path)).headers["content-length"] == answer.headers["content-length"]
        for path in ("/page/none.js", "/page/../webpage.py", "/page/%2e%2e%2fwebpage.py", "/page/"):
            assert (await client.get(path)).status_code == 404
