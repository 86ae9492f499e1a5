"""Malformed uploads against a real server: 4xx that says why, never a 5xx, and nothing leaks."""

import asyncio
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.errors import BadRequest
from service.images import decode, encode, inspect
from tests import hostile
from tests.lone_api import VARIANT, LoneApi, lone_api

pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.")
LIMIT = 1_000_000
SEEDS = list(hostile.seeds().values())


@pytest.fixture(scope="module")
def api() -> Iterator[LoneApi]:
    with TemporaryDirectory(prefix="omgsr-") as folder:
        uploads = Path(folder) / "tmp"
        uploads.mkdir()
        with lone_api(Path(folder), OMGSR_MAX_INPUT_PIXELS=str(LIMIT), TMPDIR=str(uploads)) as started:
            asyncio.run(_register(started))
            yield started
            assert list(uploads.iterdir()) == []
            stored = {path.parent.name for path in (Path(folder) / "blobs").rglob("*") if path.is_file()}
            assert stored == asyncio.run(_known(started, stored))
        assert "Traceback" not in started.said
        assert '"level": "error"' not in started.said


async def _register(api: LoneApi) -> None:
    async with api.queue() as queue:
        await queue.register("the test", [VARIANT], ttl_s=600)


async def _known(api: LoneApi, job_ids: set[str]) -> set[str]:
    async with api.queue() as queue:
        return await queue.exists(job_ids)


def check(answer: httpx.Response) -> int:
    """A clean refusal, or a job for what is an image after all."""
    assert answer.status_code < 500, answer.text
    assert "Traceback" not in answer.text
    assert "site-packages" not in answer.text
    assert answer.headers["x-request-id"]
    if answer.status_code != 202:
        assert 400 <= answer.status_code < 500
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json().keys() == {"type", "title", "status", "detail", "advice"}
    return answer.status_code


async def post(client: httpx.AsyncClient, data: bytes, kind: str = "image/png") -> int:
    answer = await client.post(
        "/v1/upscale", params={"scale": "1"}, content=data, headers={"content-type": kind, "Prefer": "respond-async"}
    )
    if check(answer) == 202:  # nobody works here: take it back
        assert (await client.delete(answer.headers["location"])).json()["state"] == "cancelled"
    return answer.status_code


async def post_all(api: LoneApi, uploads: list[tuple[str, bytes]]) -> Counter[int]:
    """Everything, eight at a time."""
    gate = asyncio.Semaphore(8)

    async def one(kind: str, data: bytes) -> int:
        async with gate:
            return await post(client, data, kind)

    async with httpx.AsyncClient(base_url=api.url, timeout=60) as client:
        return Counter(await asyncio.gather(*(one(kind, data) for kind, data in uploads)))


async def test_the_whole_corpus_is_refused_and_nothing_leaks(api: LoneApi):
    images = [*hostile.truncated(), *hostile.flipped(), *hostile.bombs().values(), *hostile.strangers()]
    uploads = [("image/png", data) for data in images] + hostile.broken_forms()
    assert len(uploads) >= 300

    await post_all(api, uploads[::7])  # pools and caches have their size from here on
    files, threads, memory = api.process.num_fds(), api.process.num_threads(), api.process.memory_info().rss
    codes = await post_all(api, uploads)
    assert codes.total() == len(uploads)
    assert codes[413] >= 5
    assert codes[415] >= 20
    assert codes[422] >= 100
    # Pools hold as many connections as were ever in use at once; a leak would be one an upload.
    assert api.process.num_fds() <= files + 40
    assert api.process.num_threads() <= threads + 8  # asyncio's own pool fills up to its bound
    assert api.process.memory_info().rss < memory + 128 * 2**20
    assert api.process.children() == []


@pytest.mark.parametrize("name", sorted(hostile.bombs()))
async def test_bombs(api: LoneApi, name: str):
    async with httpx.AsyncClient(base_url=api.url, timeout=60) as client:
        before = api.process.memory_info().rss
        code = await post(client, hostile.bombs()[name])
        assert code in ((202,) if "frames" in name or "rows" in name else (413, 415, 422))
        assert api.process.memory_info().rss < before + 64 * 2**20


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A sound file with pieces of it overwritten, cut out or doubled."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        what = draw(st.sampled_from(["write", "cut", "double"]))
        length = draw(st.integers(1, 16))
        if what == "write":
            data[at : at + length] = draw(st.binary(min_size=length, max_size=length))
        elif what == "cut":
            del data[at : at + length]
        else:
            data[at:at] = data[at : at + length]
    return bytes(data)


@settings(max_examples=100, deadline=None, database=None)
@given(
    data=mutated() | st.binary(max_size=300), kind=st.sampled_from(["image/png", "application/octet-stream", "image/x"])
)
def test_random_damage_over_the_wire(api: LoneApi, data: bytes, kind: str):
    async def send() -> None:
        async with httpx.AsyncClient(base_url=api.url, timeout=60) as client:
            await post(client, data, kind)

    asyncio.run(send())


@settings(max_examples=60, deadline=None, database=None)
@given(body=st.binary(max_size=200), boundary=st.text("abc'()+_,-./:=? \"\\", max_size=20))
def test_random_forms_over_the_wire(api: LoneApi, body: bytes, boundary: str):
    async def send() -> None:
        async with httpx.AsyncClient(base_url=api.url, timeout=60) as client:
            framed = b"--" + boundary.encode() + b"\r\n" + body
            await post(client, framed, f"multipart/form-data; boundary={boundary}".rstrip())

    asyncio.run(send())


@settings(max_examples=60, deadline=None, database=None)
@given(
    fields=st.lists(
        st.tuples(st.sampled_from(["scale", "model", "quality", "x", "", "image"]), st.text(max_size=20)), max_size=5
    )
)
@example(fields=[("scale", "1e400"), ("priority", "9" * 400)])
@example(fields=[("model", "\x00\ud7ff"), ("model", "../../x")])
def test_random_options_over_the_wire(api: LoneApi, fields: list[tuple[str, str]]):
    with httpx.Client(base_url=api.url, timeout=60) as client:
        check(client.post("/v1/upscale", params=fields, content=b"no image", headers={"content-type": "image/png"}))


@settings(max_examples=300, deadline=None, database=None)
@given(data=mutated())
def test_what_the_api_lets_in_the_worker_can_read_and_write(data: bytes):
    try:
        size = inspect(data, max_pixels=LIMIT)
    except BadRequest:
        return
    picture = decode(data, max_pixels=LIMIT)
    assert (picture.width, picture.height) == size
    if picture.width * picture.height < 10_000:
        for kind in ("png", "jpeg", "webp"):
            encode(picture, kind, 80)


def test_what_is_not_even_http(api: LoneApi):
    host, _, port = api.url.removeprefix("http://").partition(":")
    head = b"POST /v1/upscale HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
    for sent in (
        b"\x16\x03\x01\x02\x00" + bytes(100),
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        head + b"Content-Length: -1\r\n\r\nx",
        head + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nxxxx",
        head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        head + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nxxx",
        head + b"X: " + b"y" * 200_000 + b"\r\n\r\n",
        head + b"Content-Length: 10000\r\n\r\nthen gone",
    ):
        with socket.create_connection((host, int(port)), 10) as connection:
            got = b""
            with suppress(OSError):  # it may hang up on such a client before that one has said everything
                connection.sendall(sent)
                connection.shutdown(socket.SHUT_WR)
                while part := connection.recv(65536):
                    got += part
        assert b" 5" not in got[:13]
        assert b"Traceback" not in got
    assert httpx.get(api.url + "/livez").status_code == 200


async def test_odd_files_that_still_decode_pass_through_the_whole_service(service):
    async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
        for data in SEEDS:
            answer = await client.post("/v1/upscale", params={"scale": "2"}, files={"image": ("odd", data)})
            assert answer.status_code == 200, answer.text
        answer = await client.post("/v1/upscale", files={"image": ("odd", b"no image")})
        check(answer)
