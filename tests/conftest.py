"""Real parts for the tests: a queue on a real server, tiny models, the whole service."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import pytest

from service.queue.embedded import EmbeddedServer
from service.queue.queue import Queue
from tests.running import Service, running_service


@pytest.fixture(scope="session")
def valkey() -> Iterator[str]:
    """The address of a real server."""
    with TemporaryDirectory(prefix="omgsr-") as folder, EmbeddedServer(Path(folder)) as server:
        yield server.url


@pytest.fixture
async def queue(valkey: str) -> AsyncIterator[Queue]:
    """An empty queue with short leases."""
    async with Queue(valkey, namespace=uuid4().hex, lease_s=0.2, max_attempts=3, result_ttl_s=60) as made:
        yield made


@pytest.fixture
def state() -> Iterator[Path]:
    """A state folder with a short path (a socket's path has a limit)."""
    with TemporaryDirectory(prefix="omgsr-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `tiny-s` and `tiny-f`: random weights of both families, fast and of no quality."""
    from tests.golden import FAMILY, tiny_variant  # it brings torch, which most tests of the service do without

    models = tmp_path_factory.mktemp("models")
    for letter in FAMILY:
        tiny_variant(models, letter)
    return models


@pytest.fixture(scope="session")
def service(tiny_models: Path) -> Iterator[Service]:
    """The whole service, shared by all tests that leave it as they found it."""
    with (
        TemporaryDirectory(prefix="omgsr-") as folder,
        running_service(Path(folder), tiny_models, OMGSR_LEASE_S="4") as running,
    ):
        yield running
