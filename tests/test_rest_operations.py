"""What operators rely on: the admin listener, readiness and drain, TLS, origins, safe headers."""

import asyncio
import random
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest
import trustme

from service.errors import ProcessingFailed
from service.job import JobState, Result
from service.queue.blobs import result_key
from service.queue.queue import Queue
from tests.lone_api import VARIANT, LoneApi, first_lease, lone_api, start
from tests.pictures import photo
from tests.problems import check_problem

ASYNC = {"Prefer": "respond-async"}
ORIGIN = "https://photos.example"


@pytest.fixture(scope="module")
def api() -> Iterator[LoneApi]:
    given = {"OMGSR_ADMIN_PORT": "0", "OMGSR_CORS_ORIGINS": f'["{ORIGIN}"]', "OMGSR_SLOW_UPLOAD_S": "0.5"}
    with TemporaryDirectory(prefix="omgsr-") as folder, lone_api(Path(folder), **given) as started:
        yield started
        assert "Traceback" not in started.said


@pytest.fixture
async def queue(api: LoneApi) -> AsyncIterator[Queue]:
    async with api.queue() as made:
        await made.register("the test", [VARIANT], ttl_s=600)
        yield made


@pytest.fixture
async def client(api: LoneApi, queue: Queue) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=api.url, timeout=30) as made:
        yield made


@pytest.fixture
async def admin(api: LoneApi) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=api.admin, timeout=30) as made:
        yield made


async def submit(client: httpx.AsyncClient) -> str:
    answer = await client.post("/v1/upscale", files={"image": ("cat.jpg", photo())}, headers=ASYNC)
    return str(answer.raise_for_status().json()["id"])


async def ask_until_gone(client: httpx.AsyncClient) -> None:
    while True:
        await client.get("/livez")


# The admin listener -------------------------------------------------------------------------------------------------


async def test_metrics_are_on_the_admin_listener_alone(client, admin, queue):
    job_id = await submit(client)
    refused = await client.post("/v1/upscale", files={"image": b"no image"})
    check_problem(refused, 415, "not-an-image")
    metrics = (await admin.get("/metrics")).text
    for line in (
        "omgsr_workers_alive 1.0",
        f'omgsr_queue_depth{{model="{VARIANT.name}"}} 1.0',
        f'omgsr_queue_backlog_seconds{{model="{VARIANT.name}"}} ',
        f"omgsr_stored_bytes {len(photo()):.1f}",
        "omgsr_dead_letters_kept 0.0",
        'omgsr_rejected_total{reason="not-an-image"} 1.0',
    ):
        assert line in metrics
    assert (await admin.get("/livez")).json() == {"status": "alive"}
    for path in ("/metrics", "/dead-letters"):
        check_problem(await client.get(path), 404, "about:blank")
    for path in ("/v1/models", "/docs", "/openapi.json"):
        check_problem(await admin.get(path), 404, "about:blank")
    await client.delete(f"/v1/jobs/{job_id}")


async def test_metrics_of_a_service_at_home_are_there_but_not_through_a_proxy(state: Path):
    with lone_api(state) as api:
        async with httpx.AsyncClient(base_url=api.url, timeout=30) as client:
            assert "omgsr_workers_alive" in (await client.get("/metrics")).text
            for header in ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host"):
                check_problem(await client.get("/metrics", headers={header: "for=10.0.0.1"}), 404, "about:blank")


async def test_dead_letters_are_listed_shown_replayed_and_buried(client, admin, queue):
    letters = []
    for _ in range(2):
        letters.append(await submit(client))
        leased = await first_lease(queue)
        problem = ProcessingFailed("The device burned.").problem()
        await queue.fail(leased.job.id, leased.attempt, problem, retry=False, dead=True)
    assert [letter["job"]["id"] for letter in (await admin.get("/dead-letters")).json()] == letters
    shown = (await admin.get(f"/dead-letters/{letters[0]}")).json()
    assert (shown["state"], shown["attempt"], shown["error"]["detail"]) == ("failed", 1, "The device burned.")
    assert "omgsr_dead_letters_kept 2.0" in (await admin.get("/metrics")).text

    replayed = await admin.post(f"/dead-letters/{letters[0]}/replay")
    assert replayed.status_code == 201
    leased = await first_lease(queue)
    assert (leased.job.id, leased.job.filename) == (replayed.json()["id"], "cat.jpg")
    await queue.cancel(leased.job.id)
    assert (await admin.delete(f"/dead-letters/{letters[1]}")).status_code == 204
    assert (await admin.get("/dead-letters")).json() == []
    for method, path in (("GET", ""), ("POST", "/replay"), ("DELETE", "")):
        for letter in (*letters, "nonesuch"):
            check_problem(await admin.request(method, f"/dead-letters/{letter}{path}"), 404, "job-not-found")


def test_a_taken_admin_port_is_named(api: LoneApi, state: Path):
    process = start(state, OMGSR_ADMIN_PORT=api.admin.rpartition(":")[2])
    _, said = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "is taken by" in said
    assert "OMGSR_ADMIN_PORT" in said


# Stopping -----------------------------------------------------------------------------------------------------------


async def test_a_stop_is_announced_while_requests_are_still_taken_and_then_all_is_finished(state: Path):
    with lone_api(state, OMGSR_NOTICE_S="3", OMGSR_DRAIN_S="20") as api:
        async with api.queue() as queue, httpx.AsyncClient(base_url=api.url, timeout=60) as client:
            await queue.register("the test", [VARIANT], ttl_s=600)
            assert (await client.get("/readyz")).status_code == 200
            waiting = asyncio.create_task(client.post("/v1/upscale", files={"image": ("a.png", photo())}))
            leased = await first_lease(queue)
            api.process.terminate()
            stopped_at = time.monotonic()
            while (answer := await client.get("/readyz")).status_code == 200:
                assert time.monotonic() < stopped_at + 2  # within a second, on a quiet machine
            assert "is stopping" in check_problem(answer, 503, "unavailable")
            async with httpx.AsyncClient(base_url=api.url, timeout=60) as late:  # on a connection of its own
                await late.delete(f"/v1/jobs/{await submit(late)}")
            key = result_key(leased.job.id, leased.attempt)
            api.blobs.put(key, b"finished")
            await asyncio.to_thread(api.log.find, "Shutting down|draining")
            await queue.finish(
                leased.job.id, leased.attempt, Result(key=key, mime_type="image/png", width=1, height=1, bytes=8)
            )
            assert (await waiting).content == b"finished"
            with pytest.raises(httpx.TransportError):
                await ask_until_gone(client)


# What browsers and strangers meet -----------------------------------------------------------------------------------


async def test_safe_headers_are_on_every_answer(client):
    for path in ("/livez", "/v1/models", "/nonesuch", "/docs", "/"):
        headers = (await client.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "server" not in headers
    assert "cdn.jsdelivr.net" in (await client.get("/docs")).headers["content-security-policy"]


async def test_other_origins_are_answered_only_when_they_are_named(client, state: Path):
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "Idempotency-Key, X-API-Key"}
    opened = await client.options("/v1/upscale", headers={"Origin": ORIGIN} | asked)
    assert (opened.status_code, opened.headers["access-control-allow-origin"]) == (200, ORIGIN)
    problem = await client.get("/v1/jobs/nonesuch", headers={"Origin": ORIGIN})
    assert problem.headers["access-control-allow-origin"] == ORIGIN
    assert "X-Job-Id" in problem.headers["access-control-expose-headers"]
    stranger = await client.options("/v1/upscale", headers={"Origin": "https://evil.example"} | asked)
    assert stranger.status_code == 400
    with lone_api(state) as closed:
        async with httpx.AsyncClient(base_url=closed.url, timeout=30) as other:
            answers = [
                await other.options("/v1/upscale", headers={"Origin": ORIGIN} | asked),
                await other.get("/livez", headers={"Origin": ORIGIN}),
            ]
    assert [name for answer in answers for name in answer.headers if name.startswith("access-control")] == []


async def test_an_upload_that_trickles_gives_its_place_back(api, client):
    host, _, port = api.url.removeprefix("http://").partition(":")

    def trickle() -> bytes:
        with socket.create_connection((host, int(port)), 10) as connection:
            head = b"POST /v1/upscale HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 90000\r\n\r\n"
            connection.sendall(head + b"\x89PNG")
            return connection.recv(65536)

    assert b" 408 " in (await asyncio.to_thread(trickle)).splitlines()[0]
    await client.delete(f"/v1/jobs/{await submit(client)}")


async def test_urls_are_not_fetched(client):
    for place in ("data", "params"):
        answer = await client.post(
            "/v1/upscale", files={"image": photo()}, **{place: {"url": "http://169.254.169.254/latest"}}
        )
        assert "not fetched from a URL" in check_problem(answer, 422, "bad-option")


# Large results ------------------------------------------------------------------------------------------------------


async def test_slow_readers_of_a_large_result_hold_a_piece_each(api, client, queue):
    job_id = await submit(client)
    leased, data = await first_lease(queue), random.Random(5).randbytes(64 * 2**20 + 1)
    key = result_key(job_id, leased.attempt)
    api.blobs.put(key, data)
    found = Result(key=key, mime_type="image/png", width=1, height=1, bytes=len(data))
    await queue.finish(job_id, leased.attempt, found)
    before = api.process.memory_info().rss
    async with AsyncExitStack() as readers:
        slow = [await readers.enter_async_context(client.stream("GET", f"/v1/jobs/{job_id}/result")) for _ in range(8)]
        assert {answer.headers["content-length"] for answer in slow} == {str(len(data))}
        assert (await client.get(f"/v1/jobs/{job_id}/result")).content == data
        assert api.process.memory_info().rss < before + 160 * 2**20  # eight whole ones would be 512 MiB
        assert b"".join([chunk async for chunk in slow[3].aiter_raw()]) == data


# TLS ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def certificate(authority: trustme.CA) -> Iterator[dict[str, str]]:
    made = authority.issue_cert("127.0.0.1")
    with made.cert_chain_pems[0].tempfile() as chain, made.private_key_pem.tempfile() as key:
        yield {"OMGSR_TLS_CERT": chain, "OMGSR_TLS_KEY": key}


async def test_rest_speaks_tls(state: Path, authority: trustme.CA, certificate: dict[str, str]):
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with lone_api(state, **certificate) as api:
        async with api.queue() as queue, httpx.AsyncClient(base_url=api.url, verify=trusting) as client:
            await queue.register("the test", [VARIANT], ttl_s=600)
            job_id = await submit(client)
            assert (await client.delete(f"/v1/jobs/{job_id}")).json()["state"] == JobState.CANCELLED
            with pytest.raises(httpx.TransportError):
                await client.get(api.url.replace("https", "http") + "/livez")


@pytest.mark.parametrize("missing", ["OMGSR_TLS_CERT", "OMGSR_TLS_KEY"])
def test_half_a_certificate_is_refused_in_words(state: Path, certificate: dict[str, str], missing: str):
    for given in ({missing: ""}, {missing: str(state / "none.pem")}):
        told = {name: value for name, value in (certificate | given).items() if value}
        _, said = start(state, **told).communicate(timeout=30)
        assert "only one is given" in said or "none.pem" in said
        assert "Traceback" not in said
