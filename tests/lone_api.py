"""A real API process on a real queue without any worker: the test itself takes the jobs, so nothing happens unasked."""

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from service.job import Leased, VariantInfo
from service.queue.blobs import BlobStore
from service.queue.embedded import EmbeddedServer
from service.queue.queue import Queue
from service.settings import Settings
from tests.running import OMGSR, Log, environment

ARRIVES_S = 30
VARIANT = VariantInfo(
    name="hand-made",
    family="sd",
    base="none",
    mid_timestep=195,
    native_size=32,
    process_size=64,
    license="MIT",
    color_fix="adain",
)


@dataclass
class LoneApi:
    """Where it answers, and its parts."""

    url: str
    grpc: str
    process: psutil.Process
    server: EmbeddedServer
    settings: Settings
    blobs: BlobStore
    log: Log
    admin: str = ""
    """The admin listener's address, if it has one."""

    def __repr__(self) -> str:
        return self.url

    @property
    def said(self) -> str:
        return "".join(self.log.lines)

    def queue(self) -> Queue:
        return Queue.of(self.settings)


def start(state: Path, **given: str) -> subprocess.Popen[str]:
    env = environment(state, state, **{"OMGSR_NOTICE_S": "0", **given})
    return subprocess.Popen([*OMGSR, "api"], env=env, stderr=subprocess.PIPE, text=True)


@contextmanager
def lone_api(state: Path, **given: str) -> Iterator[LoneApi]:
    """An API process; when the block ends it is stopped, and has ended well."""
    with EmbeddedServer(state) as server:
        process = start(state, **given)
        assert process.stderr is not None
        log = Log(process.stderr)
        try:
            ports = log.find(r'"rest_port": (\d+), "grpc_port": (\d+), "admin_port": (\d+|null)')
            settings = Settings(state_dir=state)
            scheme = "https" if "OMGSR_TLS_CERT" in given else "http"
            yield LoneApi(
                url=f"{scheme}://127.0.0.1:{ports[1]}",
                grpc=f"127.0.0.1:{ports[2]}",
                process=psutil.Process(process.pid),
                server=server,
                settings=settings,
                blobs=BlobStore(settings.blobs),
                log=log,
                admin="" if ports[3] == "null" else f"http://127.0.0.1:{ports[3]}",
            )
        finally:
            process.terminate()
            code = process.wait(30)
            log.close()
        assert code == 0, "".join(log.lines)


async def first_lease(queue: Queue) -> Leased:
    """The next job that arrives."""
    after = "0"
    async with asyncio.timeout(ARRIVES_S):  # a job that was refused never arrives
        while not (leased := await queue.lease([VARIANT.name], "the test", 1)):
            after = await queue.arrival(after)
    return leased[0]
