"""The page when things go wrong: lost connections, a busy service, refusals, failures, a key that is wanted."""

import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, FilePayload, Page, Request, Response, expect

from tests.browser import PATIENCE_MS, card, give, page_at, started
from tests.lone_api import VARIANT, lone_api
from tests.pictures import photo
from tests.proxy import Proxy
from tests.running import StubService, running_stub
from tests.stub_worker import GREEDY

KEY = "the-right-key"
LOST = "net::ERR_"
pytestmark = pytest.mark.asyncio(loop_scope="module")


def file(name: str, width: int = 20, height: int = 16) -> FilePayload:
    return {"name": name, "mimeType": "image/png", "buffer": photo(width, height)}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with started() as made:
        yield made


@pytest.fixture(scope="module")
def service() -> Iterator[StubService]:
    with TemporaryDirectory(prefix="omgsr-") as folder, running_stub(Path(folder)) as running:
        yield running


async def becomes(page: Page, name: str, state: str) -> None:
    await expect(card(page, name)).to_have_attribute("data-state", state, timeout=PATIENCE_MS)


async def test_a_stream_that_breaks_is_taken_up_where_it_broke(browser, service):
    asked: list[Request] = []
    async with Proxy(service.url) as proxy, page_at(browser, proxy.url, refused=LOST) as page:
        page.on("request", lambda request: asked.append(request) if request.url.endswith("/events") else None)
        await give(page, file("large.png", 200, 160))
        status = card(page, "large.png").locator(".status")
        await expect(status).to_contain_text("tiles")
        answered = (await status.inner_text()).rpartition(" · ")[2]
        await expect(status).not_to_contain_text(answered)  # so the stream has told something
        await proxy.cut()
        await becomes(page, "large.png", "done")
    first, *later = [request.headers for request in asked]
    assert "last-event-id" not in first
    assert later
    assert all("last-event-id" in each for each in later)


async def test_where_no_stream_comes_through_the_job_is_asked_for(browser, service):
    async with page_at(browser, service.url, refused=LOST) as page:
        await page.route("**/events", lambda route: route.abort())
        await give(page, file("polled.png"))
        await becomes(page, "polled.png", "done")


async def test_a_lost_answer_makes_no_second_job(browser, service):
    answers: list[Response] = []
    async with Proxy(service.url) as proxy, page_at(browser, proxy.url, refused=LOST) as page:
        page.on("response", lambda answer: answers.append(answer) if answer.request.method == "POST" else None)
        await expect(page.get_by_label("Model")).to_have_value("stub")
        await proxy.cut()
        proxy.lose_answers(1)
        await give(page, file("once.png"))
        await becomes(page, "once.png", "done")
        assert proxy.lost == 1
    assert [(answer.status, answer.headers.get("idempotency-replayed")) for answer in answers] == [(202, "true")]


async def test_what_the_service_refuses_or_cannot_do_is_told_in_its_own_words(browser, service):
    async with page_at(browser, service.url, refused="415") as page:
        await give(
            page, {"name": "a.heic", "mimeType": "image/heic", "buffer": b"no picture"}, file("big.png", *GREEDY)
        )
        await becomes(page, "a.heic", "failed")
        await expect(page.locator("#stage")).to_contain_text("Send a PNG, JPEG, WebP, AVIF, GIF, TIFF or BMP file.")
        await becomes(page, "big.png", "failed")
        await card(page, "big.png").locator(".open").click()
        await expect(page.locator("#stage")).to_contain_text("Ask for a smaller scale, or send a smaller photo.")
        await expect(page.get_by_role("log")).to_contain_text("Out of device memory")
        async with page.expect_request("**/v1/upscale") as again:
            await page.locator("#again").click()
        assert (await again.value).method == "POST"
        await becomes(page, "big.png", "failed")


async def test_a_busy_service_is_asked_again_when_it_said_and_a_cancelled_job_ends_there(browser, state):
    jobs: list[Response] = []
    with lone_api(state, OMGSR_MAX_CLIENT_WAITING="2") as api:
        async with api.queue() as queue, page_at(browser, api.url, refused="429") as page:
            await queue.register("the test", [VARIANT], ttl_s=600)
            page.on("response", lambda answer: jobs.append(answer) if answer.request.method == "POST" else None)
            await give(page, file("one.png"))
            await expect(card(page, "one.png")).to_contain_text("Next in line")
            await give(page, file("two.png"))
            await expect(card(page, "two.png")).to_contain_text("1 ahead in line")
            await give(page, file("three.png"))
            await expect(card(page, "three.png")).to_contain_text("Too many jobs of one client. Next try in")
            await page.get_by_role("button", name="Cancel one.png").click()
            await becomes(page, "one.png", "cancelled")
            await expect(card(page, "two.png")).to_contain_text("Next in line")
            await expect(card(page, "three.png")).to_contain_text("1 ahead in line", timeout=PATIENCE_MS)
            first = httpx.get(f"{api.url}/v1/jobs/{jobs[0].headers['x-job-id']}", trust_env=False).json()
            assert first["state"] == "cancelled"
            asked = [answer.request.timing["startTime"] for answer in jobs[2:]]
            assert [answer.status for answer in jobs[2:]] == [429, 202]
            assert asked[1] - asked[0] >= 1000 * int(jobs[2].headers["retry-after"])
            for name in ("two.png", "three.png"):
                await page.get_by_role("button", name=f"Cancel {name}").click()


async def test_a_key_is_asked_for_only_where_one_is_wanted(browser, service, state):
    async with page_at(browser, service.url) as page:
        await expect(page.get_by_label("Model")).to_have_value("stub")
        await expect(page.get_by_label("API key")).to_be_hidden()
    key = {"name": "me", "sha256": hashlib.sha256(KEY.encode()).hexdigest(), "created": "2026-01-01"}
    (state / "keys.json").write_text(json.dumps([key]))
    with lone_api(state, OMGSR_API_KEYS=str(state / "keys.json")) as api:
        async with api.queue() as queue, page_at(browser, api.url, refused="401") as page:
            await queue.register("the test", [VARIANT], ttl_s=600)
            await give(page, file("one.png"))
            field = page.get_by_label("API key")
            await expect(field).to_be_visible()
            await field.fill("the-wrong-key")
            await field.press("Enter")
            await expect(page.get_by_role("alert")).to_contain_text("not known here")
            await field.fill(KEY)
            await field.press("Enter")
            await expect(field).to_be_hidden()
            await expect(page.get_by_label("Model")).to_have_value(VARIANT.name)
            await expect(card(page, "one.png")).to_contain_text("Next in line")
            assert await page.evaluate("sessionStorage.length + localStorage.length") == 1
            await page.get_by_role("button", name="Cancel one.png").click()
