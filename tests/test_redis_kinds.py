"""The queue on every kind of server that docs/kubernetes.md names: TLS, a user with few rights, Sentinel, cluster."""

import asyncio
import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import trustme
from redis.crc import key_slot

from service.errors import Unavailable
from service.job import JobState, VariantInfo
from service.queue.connection import patiently
from service.queue.queue import Queue
from tests.jobs import RESULT, job
from tests.proxy import Proxy
from tests.valkeys import Server, comes, running_cluster, running_sentinel, running_server

ROOT = Path(__file__).parent.parent
VARIANT = VariantInfo(
    name="m", family="sd", base="b", mid_timestep=1, native_size=64, process_size=64, license="MIT", color_fix="adain"
)


async def serves(queue: Queue, name: str = "a") -> None:
    """A job goes the whole way, and who waits for it is told."""
    await queue.register("w", [VARIANT], 9)
    await queue.submit(job(name))
    assert (await queue.arrival("0")) != "0"
    [leased] = await queue.lease(["m"], "w", 1)
    waiting = asyncio.create_task(queue.wait(name))
    assert await queue.progress(name, leased.attempt, 1, 2)
    assert await queue.renew({name: leased.attempt}) == {name}
    await queue.reclaim()
    assert await queue.finish(name, leased.attempt, RESULT)
    assert (await waiting).state is JobState.SUCCEEDED
    assert [event.kind async for event in queue.events(name)][-1] == "succeeded"
    assert (await queue.fleet()).workers == 1


# Users ------------------------------------------------------------------------------------------------------------


def documented_rights() -> str:
    """The line that the documentation gives for the server's ACL file, with a password of its own."""
    [line] = re.findall(r"^user omgsr on .*$", (ROOT / "docs" / "kubernetes.md").read_text("utf-8"), re.MULTILINE)
    return line


@pytest.fixture
def guarded() -> Iterator[Server]:
    """A server that lets in a user with the documented rights, and an operator."""
    with running_server(
        documented_rights().replace("PASSWORD", "first"), "user default off", "user operator on nopass ~* &* +@all"
    ) as server:
        yield server


async def test_the_documented_rights_are_enough_over_tls(guarded: Server, state: Path) -> None:
    authority, password = trustme.CA(), state / "password"
    password.write_text("first\n")
    authority.cert_pem.write_to_path(state / "ca.pem")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)
    async with Proxy(f"redis://{guarded.address}", tls) as proxy:
        url = (
            f"rediss://omgsr@localhost:{proxy.port}/0?ssl_ca_certs={state}/ca.pem&password_file={quote(str(password))}"
        )
        async with Queue(url) as queue:
            await serves(queue)
        trustme.CA().cert_pem.write_to_path(state / "ca.pem")
        async with Queue(url) as queue:
            with pytest.raises(Unavailable, match="does not answer"):
                await queue.fleet()


def test_the_documented_rights_are_no_more_than_the_scripts_use() -> None:
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "service" / "queue").glob("*.lua"))
    used = {name.lower() for name in re.findall(r"redis\.p?call\('(\w+)'", sources)}
    granted = {word[1:] for word in documented_rights().split() if word.startswith("+")}
    assert granted - used == {"evalsha", "script|load", "xread"}
    assert used <= granted


async def test_a_new_password_needs_no_restart(guarded: Server, state: Path) -> None:
    password = state / "password"
    password.write_text("first")
    async with Queue(f"redis://omgsr@{guarded.address}?password_file={password}") as queue:
        await queue.fleet()
        with guarded.client("operator") as operator:
            operator.acl_setuser("omgsr", enabled=True, reset_passwords=True, passwords=["+second"])
            operator.execute_command("CLIENT", "KILL", "USER", "omgsr")
        with pytest.raises(Unavailable, match="AuthenticationError"):
            await queue.fleet()
        password.write_text("second")
        await queue.fleet()


# Sentinel ---------------------------------------------------------------------------------------------------------


async def test_the_queue_follows_its_primary() -> None:
    with (
        running_server("appendonly yes") as first,
        running_server("appendonly yes", f"replicaof 127.0.0.1 {first.port}") as second,
        second.client() as watching,
    ):
        comes(lambda: watching.info("replication")["master_link_status"] == "up")
        with running_sentinel("jobs", first) as sentinel:
            # The first Sentinel named is away, as one of three may be.
            async with Queue(f"redis+sentinel://127.0.0.1:1,{sentinel.address}/jobs") as queue:
                await serves(queue)
                await queue.submit(job("kept"))
                waiting = asyncio.create_task(queue.wait("kept"))
                with first.client() as client:
                    assert client.wait(1, 5000) == 1
                first.process.kill()
                [leased] = await patiently(lambda: queue.lease(["m"], "w", 1))
                assert watching.info("replication")["role"] == "master"
                assert await queue.finish("kept", leased.attempt, RESULT)
                assert (await waiting).state is JobState.SUCCEEDED


async def test_sentinels_that_know_no_such_service() -> None:
    with (
        running_server() as server,
        running_server(f"replicaof 127.0.0.1 {server.port}"),
        running_sentinel("jobs", server) as sentinel,
    ):
        async with Queue(f"redis+sentinel://{sentinel.address}/another") as queue:
            with pytest.raises(Unavailable, match="MasterNotFoundError"):
                await queue.fleet()


# Cluster ----------------------------------------------------------------------------------------------------------


async def test_the_queue_lives_in_one_slot_of_a_cluster() -> None:
    with running_cluster() as nodes:
        owner = key_slot(b"{omgsr}:") // 8192
        elsewhere = nodes[1 - owner].address
        async with Queue(f"redis://{elsewhere}") as queue:
            with pytest.raises(Unavailable, match="another node has the queue"):
                await queue.fleet()
        async with Queue(f"redis+cluster://{elsewhere}") as queue:
            await serves(queue)
            await asyncio.gather(*(queue.submit(job(str(number))) for number in range(50)))
            assert len(await queue.lease(["m"], "w", 99)) == 50
        nodes[owner].process.kill()
        async with Queue(f"redis+cluster://{elsewhere}") as queue:
            with pytest.raises(Unavailable, match="does not answer"):
                await queue.fleet()


# Addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("valkey://:secret@localhost", "must begin with one of redis://"),
        (":secret@localhost:6379", "must begin with one of redis://"),
        ("redis://localhost:port", "is no address"),
        ("redis://:secret/word@localhost:6379", "is no address"),
        ("rediss://localhost?ssl_ca_certs=/none/ca.pem", "no file /none/ca.pem"),
        ("redis://omgsr@localhost?password_file=/none/password", "no file /none/password"),
        ("redis+sentinel://localhost:26379", "no service"),
        ("redis+cluster://localhost:6379/2", "no database but 0"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_at_once(url: str, why: str) -> None:
    with pytest.raises(Unavailable, match=why) as refused:
        Queue(url)
    assert "secret" not in str(refused.value)
