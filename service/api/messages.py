"""The messages of the gRPC contract, from and to our own."""

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import ErrorInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from omgsr.v1 import upscale_pb2 as pb
from pydantic import ValidationError

from service.api.submit import bad_option
from service.errors import TooManyBytes
from service.job import Event, JobState, Problem, UpscaleOptions


def options_of(start: pb.Start) -> UpscaleOptions:
    """Unset fields take the defaults; what is set is judged as REST judges it."""
    texts = {name: getattr(start, name) for name in ("model", "color_fix", "format")}
    numbers = {name: getattr(start, name) for name in ("scale", "strength") if start.HasField(name)}
    whole = {name: getattr(start, name) for name in ("quality", "priority")}
    given = {name: value for name, value in (texts | whole).items() if value}
    try:
        return UpscaleOptions.model_validate(given | numbers)
    except ValidationError as error:
        raise bad_option(error) from error


def progress_of(image_id: str, event: Event) -> pb.Progress:
    """One line of a job's history."""
    state = JobState.QUEUED if event.kind == JobState.QUEUED else JobState.RUNNING
    return pb.Progress(image_id=image_id, state=state, tiles_done=event.tiles_done, tiles_total=event.tiles_total)


def status_of(problem: Problem) -> Status:
    """The problem as gRPC tells it."""
    info = ErrorInfo(
        reason=problem.type.rpartition(":")[2].upper().replace("-", "_"),
        domain="omgsr.v1",
        metadata={"title": problem.title, "advice": problem.advice},
    )
    detail = AnyMessage()
    detail.Pack(info)
    code = grpc.StatusCode[problem.grpc_code].value[0]
    return Status(code=code, message=f"{problem.detail} {problem.advice}", details=[detail])


def too_many(limit: int) -> TooManyBytes:
    """What an image over the limit is told."""
    return TooManyBytes(f"The file has more than the {limit:,} bytes that this server takes.")
