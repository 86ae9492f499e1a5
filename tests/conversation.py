"""A client of the stream, for tests: requests out, answers in, by image."""

import asyncio
from collections.abc import AsyncIterable, Iterable

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from omgsr.v1 import upscale_pb2 as pb
from omgsr.v1.upscale_pb2_grpc import UpscaleServiceStub

from service.job import Leased, Result
from service.queue.blobs import result_key
from service.queue.queue import Queue
from tests.lone_api import LoneApi

PIECE = 1000


def upload(image_id: str, data: bytes, piece: int = PIECE, **options) -> list[pb.UpscaleRequest]:
    """A start and the file in pieces."""
    pieces = [data[at : at + piece] for at in range(0, len(data), piece)] or [b""]
    start = pb.Start(image_id=image_id, total_bytes=len(data), **options)
    return [
        pb.UpscaleRequest(start=start),
        *(
            pb.UpscaleRequest(chunk=pb.Chunk(image_id=image_id, data=part, last=i == len(pieces) - 1))
            for i, part in enumerate(pieces)
        ),
    ]


class Answers:
    """What came back, by image."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.starts: dict[str, pb.ResultStart] = {}
        self.failed: dict[str, Status] = {}
        self.accepted: dict[str, pb.Accepted] = {}
        self.progress: list[pb.Progress] = []
        self.ended: set[str] = set()

    def take(self, answer: pb.UpscaleResponse) -> None:
        kind = answer.WhichOneof("message")
        said = getattr(answer, kind)
        if kind == "accepted":
            self.accepted[said.image_id] = said
        elif kind == "progress":
            self.progress.append(said)
        elif kind == "result_start":
            self.starts[said.image_id] = said
        elif kind == "failed":
            self.failed[said.image_id] = said.status
            self.ended.add(said.image_id)
        else:
            assert len(said.data) <= 256 * 1024
            self.files[said.image_id] = self.files.get(said.image_id, b"") + said.data
            if said.last:
                self.ended.add(said.image_id)


async def converse(address: str, requests: Iterable[pb.UpscaleRequest] | AsyncIterable[pb.UpscaleRequest]) -> Answers:
    answers = Answers()
    async with grpc.aio.insecure_channel(address) as channel, asyncio.timeout(60):
        async for answer in UpscaleServiceStub(channel).Upscale(requests):
            answers.take(answer)
    return answers


def reason(status: Status) -> tuple[str, str, str]:
    """Code's name, reason, advice."""
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    assert "Traceback" not in status.message
    name = next(code.name for code in grpc.StatusCode if code.value[0] == status.code)
    return name, info.reason, info.metadata["advice"]


def status_of(error: grpc.aio.AioRpcError) -> Status:
    """What a call that failed as a whole was told."""
    return Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])


async def finish(api: LoneApi, queue: Queue, leased: Leased, data: bytes) -> None:
    """Be the worker that made the result."""
    key = result_key(leased.job.id, leased.attempt)
    api.blobs.put(key, data)
    made = Result(key=key, mime_type="image/png", width=1, height=1, bytes=len(data))
    assert await queue.finish(leased.job.id, leased.attempt, made)
