"""The messages of the gRPC contract, from and to our own."""

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from omgsr.v1 import upscale_pb2 as pb
from pydantic import ValidationError

from service.api.submit import bad_option
from service.errors import TooManyBytes
from service.job import Event, JobState, Problem, UpscaleOptions

CHUNK_SENT = 256 * 1024
CHUNK_TAKEN = 2**20
LARGEST = 4 * 2**20
"""Bytes of one message, either way: what most clients take, unless told otherwise."""

_TEXTS = ("model", "color_fix", "format", "metadata")
_WHOLE = ("quality", "priority", "depth")
_FRACTIONS = ("scale", "strength", "deadline_s")


def options_of(start: pb.Start) -> UpscaleOptions:
    """Unset fields take the defaults; what is set is judged as REST judges it. Raises BadOption."""
    given = {name: value for name in (*_TEXTS, *_WHOLE) if (value := getattr(start, name))}
    given |= {name: getattr(start, name) for name in _FRACTIONS if start.HasField(name)}
    try:
        return UpscaleOptions.model_validate(given)
    except ValidationError as error:
        raise bad_option(error) from error


def progress_of(image_id: str, event: Event) -> pb.Progress:
    """One line of a job's history."""
    state = JobState.QUEUED if event.kind == JobState.QUEUED else JobState.RUNNING
    return pb.Progress(image_id=image_id, state=state, tiles_done=event.tiles_done, tiles_total=event.tiles_total)


def status_of(problem: Problem) -> Status:
    """The problem as gRPC tells it."""
    details: list[Message] = [
        ErrorInfo(
            reason=problem.type.rpartition(":")[2].upper().replace("-", "_"),
            domain="omgsr.v1",
            metadata={"title": problem.title, "advice": problem.advice},
        )
    ]
    if problem.retry_after_s is not None:
        details.append(RetryInfo(retry_delay=Duration(seconds=problem.retry_after_s)))
    return Status(
        code=grpc.StatusCode[problem.grpc_code].value[0],
        message=f"{problem.detail} {problem.advice}",
        details=[_packed(detail) for detail in details],
    )


def _packed(detail: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(detail)
    return packed


def too_many(limit: int) -> TooManyBytes:
    """What an image over the limit is told."""
    return TooManyBytes(f"The file has more than the {limit:,} bytes that this server takes.")
