"""Requests made from our own OpenAPI document, and damaged ones: no 5xx but 503, no crash, and the document is true.

In one process: the document's operations are tests of one name, of which xdist would run but one.
"""

import asyncio
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case
from schemathesis.checks import CHECKS

from service.api.app import create_app
from service.job import Result
from service.queue.blobs import result_key
from service.settings import Settings
from tests import hostile
from tests.lone_api import VARIANT, LoneApi, lone_api
from tests.soak import times

pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.", r"ignore:::schemathesis\.")
DOCUMENT = schemathesis.openapi.from_dict(create_app(Settings()).openapi())
WITH_PARAMETERS = 5
"""Operations of the document; of the others there is little to vary."""
TRUE = [
    CHECKS.get_one(name)
    for name in (
        *("not_a_server_error", "content_type_conformance", "response_schema_conformance"),
        "response_headers_conformance",
    )
]
IMAGES = [*hostile.seeds().values(), *hostile.truncated(), *hostile.flipped(), *hostile.strangers()]
SETTINGS = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))

schemathesis.openapi.media_type("image/*", st.sampled_from(IMAGES))


@pytest.fixture(scope="module")
def api() -> Iterator[LoneApi]:
    """An API whose jobs a thread of this test takes and ends, so that calls that wait come to an end."""
    with TemporaryDirectory(prefix="omgsr-") as folder:
        with lone_api(Path(folder), OMGSR_MAX_INPUT_PIXELS="1000000") as started, all_jobs_done(started):
            yield started
            assert started.process.is_running()
        assert "Traceback" not in started.said
        assert '"level": "error"' not in started.said


@contextmanager
def all_jobs_done(api: LoneApi) -> Iterator[None]:
    """Within the block a thread takes every job and ends it at once."""
    ready, enough = threading.Event(), threading.Event()

    async def work() -> None:
        async with api.queue() as queue:
            await queue.register("the test", [VARIANT], ttl_s=7200)
            ready.set()
            while not enough.is_set():
                if not (leased := await queue.lease([VARIANT.name], "the test", 8)):
                    await asyncio.sleep(0.02)
                for one in leased:
                    key, mime = result_key(one.job.id, one.attempt), f"image/{one.job.options.format}"
                    api.blobs.put(key, b"result")
                    await queue.finish(
                        one.job.id, one.attempt, Result(key=key, mime_type=mime, width=1, height=1, bytes=6)
                    )

    thread = threading.Thread(target=lambda: asyncio.run(work()))
    thread.start()
    try:
        assert ready.wait(30)
        yield
    finally:
        enough.set()
        thread.join()


def check(answer: httpx.Response | schemathesis.Response) -> None:
    """No fault of the server's: 503 says that it is busy, 504 that the client's own deadline has passed."""
    text = answer.text
    sent.append(answer.status_code)
    assert answer.status_code < 500 or answer.status_code in (503, 504), text
    assert "Traceback" not in text
    assert "site-packages" not in text


made: list[str] = []
"""The jobs that there are: every second request for a job is for the last of them."""
turns = itertools.count()
sent: list[int] = []
"""The answers' codes."""
tried: set[str] = set()
"""Operations of the document."""


@DOCUMENT.parametrize()
@settings(SETTINGS, max_examples=times(15_000 // WITH_PARAMETERS, 12))
def test_what_the_document_allows_and_what_it_does_not(api: LoneApi, case: Case):
    if "job_id" in case.path_parameters and made and next(turns) % 2:
        case.path_parameters["job_id"] = made[-1]
    tried.add(case.operation.label)
    answer = case.call(base_url=api.url, timeout=60)
    made.extend(answer.headers.get("x-job-id", []))
    check(answer)
    if answer.status_code not in (404, 405, 503, 504):
        case.validate_response(answer, checks=TRUE)


@settings(SETTINGS, max_examples=times(5_000, 60))
@given(
    data=st.sampled_from(IMAGES),
    cut=st.integers(0, 5000),
    options=st.dictionaries(
        st.sampled_from(["scale", "format", "depth", "quality", "metadata", "priority", "deadline_s", "strength", "x"]),
        st.sampled_from(["1", "2", "8", "16", "png", "avif", "keep", "strip", "-1", "0.5", "1e9", "nan", "", "ü"]),
        max_size=3,
    ),
)
def test_damaged_images_with_any_options(api: LoneApi, data: bytes, cut: int, options: dict[str, str]):
    form = {"image": ("odd.png", data[: cut or None])}
    answer = httpx.post(f"{api.url}/v1/upscale", files=form, data=options, timeout=60)
    check(answer)


def test_as_much_was_tried_as_is_said():
    assert len(sent) >= times(20_000, 250)
    assert tried == {each.ok().label for each in DOCUMENT.get_all_operations()}
    assert {200, 400, 404, 405, 415, 422} <= set(sent)
