"""The gRPC server around its calls: health, reflection, keys, TLS, pings, and how it stops."""

import asyncio
import hashlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import httpx
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from omgsr.v1 import upscale_pb2 as pb
from omgsr.v1.upscale_pb2_grpc import UpscaleServiceStub

from tests.conversation import Answers, converse, finish, reason, status_of, upload
from tests.lone_api import VARIANT, LoneApi, first_lease, lone_api, start
from tests.pictures import photo

SERVICE = "omgsr.v1.UpscaleService"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(scope="module")
def api() -> Iterator[LoneApi]:
    with TemporaryDirectory(prefix="omgsr-") as folder, lone_api(Path(folder)) as started:
        yield started


async def test_health_follows_the_workers(api):
    async with grpc.aio.insecure_channel(api.grpc) as channel, api.queue() as queue, asyncio.timeout(30):
        for name in ("", SERVICE):
            await queue.register("the test", [VARIANT], ttl_s=0)
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=name))
            while (await watch.read()).status != NOT_SERVING:
                pass
            await queue.register("the test", [VARIANT], ttl_s=600)
            assert (await watch.read()).status == SERVING
            watch.cancel()


async def test_reflection_names_the_service(api):
    async with grpc.aio.insecure_channel(api.grpc) as channel:
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        async for answer in reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(asked):
            listed = {one.name for one in answer.list_services_response.service}
    assert listed >= {SERVICE, "grpc.health.v1.Health"}


async def test_images_are_counted(api):
    async with api.queue() as queue:
        await queue.register("the test", [VARIANT], ttl_s=600)
        await converse(api.grpc, [*upload("bad", b"hello"), *upload("halved", photo(), piece=100)[:2]])
    async with httpx.AsyncClient(base_url=api.url) as client:
        metrics = (await client.get("/metrics")).text
    for counted in (
        'omgsr_request_duration_seconds_count{code="INVALID_ARGUMENT",model="",transport="grpc"} 2.0',
        'omgsr_rejected_total{reason="not-an-image"} 1.0',
        'omgsr_rejected_total{reason="bad-request"} 1.0',
    ):
        assert counted in metrics


async def test_a_client_may_ping_once_in_a_while(api):
    pinging = [
        ("grpc.keepalive_time_ms", 1_200),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    async with grpc.aio.insecure_channel(api.grpc, options=pinging) as channel, api.queue() as queue:
        await queue.register("the test", [VARIANT], ttl_s=600)
        call = UpscaleServiceStub(channel).Upscale()
        for request in upload("long", photo()):
            await call.write(request)
        leased = await first_lease(queue)
        assert (await call.read()).accepted.job_id == leased.job.id
        assert (await call.read()).progress.state == "queued"
        assert (await call.read()).progress.state == "running"
        with pytest.raises(TimeoutError):  # a server that minds hangs up at the third ping
            await asyncio.wait_for(call.read(), 7)


async def test_keys_are_asked_for(state: Path):
    keys = state / "keys.json"
    record = {"name": "shop", "sha256": hashlib.sha256(b"secret").hexdigest(), "created": "2026-01-01T00:00:00+00:00"}
    keys.write_text(json.dumps([record]))
    with lone_api(state, OMGSR_API_KEYS=str(keys)) as api:
        async with api.queue() as queue, grpc.aio.insecure_channel(api.grpc) as channel:
            await queue.register("the test", [VARIANT], ttl_s=600)
            stub = UpscaleServiceStub(channel)
            for wrong in ((), (("authorization", "Bearer nonsense"),), (("authorization", "secret"),)):
                for call in (
                    stub.UpscaleImage(pb.UpscaleImageRequest(data=photo()), metadata=wrong),
                    stub.Upscale(iter(upload("one", photo())), metadata=wrong).read(),
                ):
                    with pytest.raises(grpc.aio.AioRpcError) as caught:
                        await call
                    assert reason(status_of(caught.value))[:2] == ("UNAUTHENTICATED", "UNAUTHENTICATED")
            for right in (("authorization", "Bearer secret"), ("x-api-key", "secret")):
                call = stub.UpscaleImage(pb.UpscaleImageRequest(data=photo()), metadata=(right,))
                leased = await first_lease(queue)
                assert leased.job.client == "shop"
                await finish(api, queue, leased, b"made")
                assert (await call).data == b"made"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of the server, of a client that is known, and of one that is not."""
    folder = tmp_path_factory.mktemp("certificates")
    ours, others = trustme.CA(), trustme.CA()
    for name, authority in (("server", ours), ("client", ours), ("stranger", others)):
        made = authority.issue_cert("127.0.0.1")
        made.private_key_pem.write_to_path(folder / f"{name}.key")
        (folder / f"{name}.pem").write_bytes(b"".join(each.bytes() for each in made.cert_chain_pems))
    ours.cert_pem.write_to_path(folder / "ca.pem")
    return folder


def credentials(folder: Path, client: str = "") -> grpc.ChannelCredentials:
    authority = (folder / "ca.pem").read_bytes()
    if not client:
        return grpc.ssl_channel_credentials(authority)
    return grpc.ssl_channel_credentials(
        authority, (folder / f"{client}.key").read_bytes(), (folder / f"{client}.pem").read_bytes()
    )


async def healthy(address: str, with_: grpc.ChannelCredentials | None) -> bool:
    async with grpc.aio.secure_channel(address, with_) if with_ else grpc.aio.insecure_channel(address) as channel:
        try:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                return False
            raise
        return True


async def test_tls(state: Path, certificates: Path):
    tls = {"OMGSR_TLS_CERT": certificates / "server.pem", "OMGSR_TLS_KEY": certificates / "server.key"}
    with lone_api(state, **{name: str(path) for name, path in tls.items()}) as api:
        assert await healthy(api.grpc, credentials(certificates))
        assert not await healthy(api.grpc, None)


async def test_mutual_tls(state: Path, certificates: Path):
    tls = {
        "OMGSR_TLS_CERT": certificates / "server.pem",
        "OMGSR_TLS_KEY": certificates / "server.key",
        "OMGSR_TLS_CLIENT_CA": certificates / "ca.pem",
    }
    with lone_api(state, **{name: str(path) for name, path in tls.items()}) as api:
        assert await healthy(api.grpc, credentials(certificates, "client"))
        assert not await healthy(api.grpc, credentials(certificates, "stranger"))
        assert not await healthy(api.grpc, credentials(certificates))


@pytest.mark.parametrize("with_certificate", [True, False])
def test_an_authority_that_cannot_be_used_is_refused_at_start(state: Path, certificates: Path, with_certificate: bool):
    """Without a certificate of the server's own, nobody would be asked for theirs."""
    tls = {"OMGSR_TLS_CERT": str(certificates / "server.pem"), "OMGSR_TLS_KEY": str(certificates / "server.key")}
    authority = certificates / ("server.key" if with_certificate else "ca.pem")
    process = start(state, OMGSR_TLS_CLIENT_CA=str(authority), **(tls if with_certificate else {}))
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert "OMGSR_TLS_CLIENT_CA" in said
    assert "Traceback" not in said


async def test_a_stop_lets_the_image_at_hand_finish(state: Path):
    with lone_api(state, OMGSR_DRAIN_S="60") as api:
        async with api.queue() as queue:
            await queue.register("the test", [VARIANT], ttl_s=600)
            waiting = asyncio.create_task(converse(api.grpc, upload("last", photo())))
            leased = await first_lease(queue)
            api.process.send_signal(signal.SIGTERM)
            await finish(api, queue, leased, b"finished")
            assert (await waiting).files == {"last": b"finished"}
            assert await asyncio.to_thread(api.process.wait, 30) == 0


async def test_a_stop_is_told_and_waits_for_nobody_who_only_looks_on(state: Path):
    with lone_api(state, OMGSR_DRAIN_S="60", OMGSR_NOTICE_S="2") as api:
        async with api.queue() as queue, grpc.aio.insecure_channel(api.grpc) as channel, asyncio.timeout(40):
            await queue.register("the test", [VARIANT], ttl_s=600)
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            while (await watch.read()).status != SERVING:
                pass
            call = UpscaleServiceStub(channel).Upscale()
            for request in upload("last", photo()):
                await call.write(request)
            leased = await first_lease(queue)
            api.process.send_signal(signal.SIGTERM)
            assert (await watch.read()).status == NOT_SERVING
            late = await converse(api.grpc, upload("bad", b"hello"))  # within the notice all goes on
            assert reason(late.failed["bad"])[1] == "NOT_AN_IMAGE"
            answers = Answers()
            answers.take(await call.read())
            await finish(api, queue, leased, b"finished")
            while "last" not in answers.ended:
                answers.take(await call.read())
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert answers.files == {"last": b"finished"}
            assert reason(status_of(caught.value))[:2] == ("UNAVAILABLE", "UNAVAILABLE")
            assert await asyncio.to_thread(api.process.wait, 30) == 0


async def test_an_image_that_comes_while_the_server_stops_is_sent_elsewhere(state: Path):
    with lone_api(state, OMGSR_DRAIN_S="60") as api:
        async with api.queue() as queue, grpc.aio.insecure_channel(api.grpc) as channel, asyncio.timeout(40):
            await queue.register("the test", [VARIANT], ttl_s=600)
            call = UpscaleServiceStub(channel).Upscale()
            for request in upload("first", photo()):
                await call.write(request)
            leased = await first_lease(queue)
            api.process.send_signal(signal.SIGTERM)
            answers, number = Answers(), 0
            while not answers.failed:  # until the stop has begun they are accepted
                number += 1
                for request in upload(f"late {number}", b"hello"):
                    await call.write(request)
                while f"late {number}" not in answers.ended:
                    answers.take(await call.read())
                if reason(answers.failed[f"late {number}"])[0] == "INVALID_ARGUMENT":
                    answers.failed.clear()
            code, why, advice = reason(answers.failed[f"late {number}"])
            assert (code, why) == ("UNAVAILABLE", "UNAVAILABLE")
            assert "another" in advice
            await finish(api, queue, leased, b"finished")
            while "first" not in answers.ended:
                answers.take(await call.read())
            assert answers.files == {"first": b"finished"}
            assert await asyncio.to_thread(api.process.wait, 30) == 0
