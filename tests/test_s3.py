"""Files in a bucket: the store, and the whole service on it, against a real server that speaks S3 (moto's)."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from fsspec import filesystem
from PIL import Image

from service.errors import JobNotFound, Unavailable
from service.queue.blobs import BlobStore, input_key, result_key
from service.queue.queue import Queue
from service.queue.sweep import sweep
from tests.jobs import job
from tests.running import Log, running_stub
from tests.valkeys import free_ports

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """The address of a server that speaks S3."""
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    log = Log(process.stderr)
    try:
        yield log.find(r"Running on (http://127\.0\.0\.1:\d+)")[1]
    finally:
        process.terminate()
        process.wait(30)
        log.close()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of an empty bucket that this process' environment leads to."""
    for name, value in (CREDENTIALS | {"AWS_ENDPOINT_URL": endpoint}).items():
        monkeypatch.setenv(name, value)
    name = uuid4().hex
    httpx.put(f"{endpoint}/{name}").raise_for_status()
    yield name
    filesystem("s3").clear_instance_cache()


def test_blobs_are_whole_or_not_there(bucket: str) -> None:
    blobs = BlobStore(f"s3://{bucket}/some/prefix")
    with pytest.raises(JobNotFound, match="kept no more"):
        blobs.get(input_key("a"))
    blobs.put(input_key("a"), b"one")
    blobs.put(result_key("a", 1), b"two")
    blobs.put(result_key("a", 1), b"three")
    assert blobs.get(result_key("a", 1)) == b"three"
    assert blobs.read(result_key("a", 1), 1, 4) == b"hre"
    assert (blobs.jobs(older_than_s=-1), blobs.jobs(older_than_s=60)) == ({"a"}, set())
    blobs.delete("a")
    blobs.delete("a")
    for read in (lambda: blobs.get(input_key("a")), lambda: blobs.read(result_key("a", 1), 0, 1)):
        with pytest.raises(JobNotFound, match="kept no more"):
            read()
    assert blobs.jobs(older_than_s=-1) == set()


async def test_what_others_store_and_remove_is_seen_at_once(bucket: str, queue: Queue) -> None:
    blobs, another = BlobStore(f"s3://{bucket}/p"), filesystem("s3", skip_instance_cache=True)
    assert blobs.jobs(older_than_s=-1) == set()
    for name in ("kept", "orphan"):
        another.pipe_file(f"{bucket}/p/{name}/input", b"one")
    assert blobs.jobs(older_than_s=-1) == {"kept", "orphan"}
    await queue.submit(job("kept"))
    assert await sweep(blobs, queue, older_than_s=-1) == 1
    assert not another.exists(f"{bucket}/p/orphan/input")
    another.rm_file(f"{bucket}/p/kept/input")
    assert blobs.jobs(older_than_s=-1) == set()
    with pytest.raises(JobNotFound):
        blobs.get(input_key("kept"))


def test_threads_and_event_loops_share_a_store(bucket: str) -> None:
    blobs = BlobStore(f"s3://{bucket}/p")
    keys = [input_key(str(number)) for number in range(40)]

    async def put() -> None:
        await asyncio.gather(*(asyncio.to_thread(blobs.put, key, key.encode()) for key in keys))

    async def get() -> list[bytes]:
        return await asyncio.gather(*(asyncio.to_thread(blobs.get, key) for key in keys))

    asyncio.run(put())
    assert asyncio.run(get()) == [key.encode() for key in keys]


def test_a_store_out_of_order_says_so_as_a_disk_does(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="bucket"):
        BlobStore("s3://no-such-bucket/p").put(input_key("a"), b"one")
    filesystem("s3").clear_instance_cache()
    [closed] = free_ports(1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    blobs = BlobStore(f"s3://{bucket}/p")
    for call in (lambda: blobs.put(input_key("a"), b""), lambda: blobs.get(input_key("a")), lambda: blobs.jobs(0)):
        with pytest.raises(OSError, match="out of order"):
            call()


def test_a_store_that_nothing_here_can_speak_to_is_refused_at_once() -> None:
    with pytest.raises(Unavailable, match="OMGSR_BLOB_URL"):
        BlobStore("s4://bucket")


def test_a_request_whose_files_lie_in_a_bucket(endpoint: str, bucket: str, state: Path) -> None:
    given = CREDENTIALS | {"AWS_ENDPOINT_URL": endpoint, "OMGSR_BLOB_URL": f"s3://{bucket}/omgsr"}
    photo = BytesIO()
    Image.new("RGB", (16, 12), "teal").save(photo, "png")
    with running_stub(state, **given) as service:
        image = httpx.post(f"{service.url}/v1/upscale", files={"image": photo.getvalue()}, trust_env=False, timeout=60)
        image.raise_for_status()
        assert Image.open(BytesIO(image.content)).size == (64, 48)
        listed = httpx.get(f"{endpoint}/{bucket}").text
        assert [key.rpartition("/")[2] for key in re.findall(r"<Key>omgsr/(.*?)</Key>", listed)] == [
            "input",
            "result-1",
        ]
        assert not (state / "blobs").exists()
