"""Clients that load a running service, and what they saw."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO

import httpx
import numpy as np
from google.rpc.code_pb2 import Code
from omgsr.v1 import upscale_pb2 as pb
from omgsr.v1 import upscale_pb2_grpc
from PIL import Image

PATIENCE_S = 600


@dataclass
class Seen:
    """What the clients of one run saw: an answer's code, its seconds, and its Server-Timing in seconds."""

    seconds: list[float] = field(default_factory=list)
    timings: list[dict[str, float]] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    jobs: list[str] = field(default_factory=list)
    refused_for_s: list[float] = field(default_factory=list)
    lasted_s: float = 0.0

    @property
    def throughput(self) -> float:
        """Images per second."""
        return len(self.seconds) / self.lasted_s

    def percentile(self, share: float) -> float:
        """Seconds of the answers that succeeded."""
        return float(np.percentile(self.seconds, 100 * share)) if self.seconds else float("nan")


def photos(count: int, sides: tuple[int, int], seed: int = 0) -> list[bytes]:
    """JPEGs of `count` different sizes, none equal to another, smooth enough to be quick to code."""
    draw = random.Random(seed)
    sizes: set[tuple[int, int]] = set()
    while len(sizes) < count:
        sizes.add((draw.randint(*sides), draw.randint(*sides)))
    return [_jpeg(*size) for size in sorted(sizes)]


def _jpeg(width: int, height: int) -> bytes:
    y, x = np.mgrid[:height, :width]
    out = BytesIO()
    pixels = np.dstack([x * 255 // width, y * 255 // height, (x + y) % 256]).astype(np.uint8)
    Image.fromarray(pixels).save(out, "JPEG", quality=90)
    return out.getvalue()


def timings(told: str) -> dict[str, float]:
    """The seconds of a Server-Timing header."""
    return {name: float(ms) / 1000 for name, ms in (part.split(";dur=") for part in told.split(", "))}


Send = Callable[[bytes, Seen], Awaitable[None]]


def rest(client: httpx.AsyncClient, **options: str) -> Send:
    """One image over REST, the answer waited for."""

    async def send(photo: bytes, seen: Seen) -> None:
        began = time.perf_counter()
        answer = await client.post(
            "/v1/upscale", params=options, content=photo, headers={"Content-Type": "image/jpeg"}, timeout=PATIENCE_S
        )
        seen.codes[str(answer.status_code)] += 1
        if answer.status_code == 200:
            seen.seconds.append(time.perf_counter() - began)
            seen.jobs.append(answer.headers["x-job-id"])
            seen.timings.append(timings(answer.headers["server-timing"]))
        elif answer.status_code == 429:
            seen.refused_for_s.append(float(answer.headers["retry-after"]))

    return send


def streamed(stub: upscale_pb2_grpc.UpscaleServiceStub) -> Send:
    """One image over a gRPC stream of its own."""

    async def send(photo: bytes, seen: Seen) -> None:
        async def requests() -> AsyncIterator[pb.UpscaleRequest]:
            yield pb.UpscaleRequest(start=pb.Start(image_id="1", format="jpeg"))
            yield pb.UpscaleRequest(chunk=pb.Chunk(image_id="1", data=photo, last=True))

        began = time.perf_counter()
        async for response in stub.Upscale(requests(), timeout=PATIENCE_S):
            match response.WhichOneof("message"):
                case "accepted":
                    job_id = response.accepted.job_id
                case "chunk" if response.chunk.last:
                    seen.codes["OK"] += 1
                    seen.seconds.append(time.perf_counter() - began)
                    seen.jobs.append(job_id)
                case "failed":
                    seen.codes[Code.Name(response.failed.status.code)] += 1

    return send


async def closed_loop(send: Send, files: Sequence[bytes], clients: int, lasts_s: float) -> Seen:
    """`clients` that send one image after the other for so long; all are waited for."""
    seen, began = Seen(), time.perf_counter()

    async def one(number: int) -> None:
        turn = number
        while time.perf_counter() - began < lasts_s:
            await send(files[turn % len(files)], seen)
            turn += clients

    await asyncio.gather(*map(one, range(clients)))
    seen.lasted_s = time.perf_counter() - began
    return seen


async def open_loop(send: Send, files: Sequence[bytes], per_second: float, lasts_s: float, seed: int = 0) -> Seen:
    """Images at random moments (Poisson), whether or not earlier ones are done; all are waited for."""
    seen, draw, began = Seen(), random.Random(seed), time.perf_counter()
    tasks, due, turn = [], 0.0, 0
    while due < lasts_s:
        await asyncio.sleep(max(0.0, began + due - time.perf_counter()))
        tasks.append(asyncio.create_task(send(files[turn % len(files)], seen)))
        due, turn = due + draw.expovariate(per_second), turn + 1
    await asyncio.gather(*tasks)
    seen.lasted_s = time.perf_counter() - began
    return seen
