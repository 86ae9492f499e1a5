"""What a service's answers say, as its client reads them: leniently, since a newer server may say more."""

import json
import re
from collections.abc import AsyncGenerator, Sequence
from typing import Self, TypeVar
from urllib.parse import unquote

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from service.errors import RequestFailed
from service.job import JobState, Problem, VariantInfo

JOINED = "Idempotency-Replayed"
"""Header of a submit's answer: the job is that of an earlier request with the same key."""

MAX_EVENT_BYTES = 1 << 20

T = TypeVar("T", bound=BaseModel)


class _Lenient(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Problem(Problem):
    model_config = ConfigDict(extra="ignore")
    grpc_code: str = ""
    advice: str = ""


class RemoteJob(_Lenient):
    """A job as it stood when it was asked for. Times are Unix seconds on the server's clock."""

    id: str
    state: JobState
    model: str
    position: int | None = None
    tiles_done: int = 0
    tiles_total: int = 0
    eta_s: float | None = None
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    error: _Problem | None = None
    joined: bool = False
    """Whether it was there before the request that submitted it."""

    @classmethod
    def submitted(cls, answer: httpx.Response) -> Self:
        """The job that a submit made or joined."""
        job = said_in(answer, cls)
        return job.model_copy(update={"joined": answer.headers.get(JOINED) == "true"})


class JobEvent(_Lenient):
    """A moment of a job. `id` is its place in the job's history."""

    id: str
    state: JobState
    position: int | None = None
    tiles_done: int = 0
    tiles_total: int = 0
    eta_s: float | None = None
    error: _Problem | None = None

    @classmethod
    def of(cls, job: RemoteJob, place: str) -> Self:
        """The job as it stands now."""
        return cls.model_validate(job.model_dump() | {"id": place})


class ServedModel(VariantInfo):
    """A variant that is served."""

    model_config = ConfigDict(extra="ignore")


class Models(_Lenient):
    """The models that are served."""

    default: str
    """Used when a request names none."""
    models: Sequence[ServedModel]


async def events_in(answer: httpx.Response) -> AsyncGenerator[JobEvent, None]:
    """The events of a text/event-stream. One that the connection's end cut off is not told."""
    rest = b""
    async for data in answer.aiter_bytes():
        *blocks, rest = re.split(rb"\r?\n\r?\n", rest + data)
        if len(rest) > MAX_EVENT_BYTES:
            raise httpx.RemoteProtocolError("an event without an end", request=answer.request)
        for block in blocks:
            try:
                event = _event(block.decode())
            except ValueError as error:
                raise httpx.RemoteProtocolError("an event that cannot be read", request=answer.request) from error
            if event is not None:
                yield event


def _event(block: str) -> JobEvent | None:
    """None for a comment, or an instruction without data."""
    fields: dict[str, str] = {}
    for line in re.split(r"\r?\n", block):
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        fields[name] = f"{fields[name]}\n{value}" if name == "data" and name in fields else value
    if "data" not in fields:
        return None
    return JobEvent.model_validate(json.loads(fields["data"]) | {"id": fields.get("id", "")})


def said_in(answer: httpx.Response, kind: type[T]) -> T:
    """What a successful answer says. Raises RequestFailed when some other server gave it."""
    try:
        return kind.model_validate_json(answer.content)
    except ValidationError:
        raise RequestFailed(_foreign(answer)) from None


def failure_of(answer: httpx.Response) -> RequestFailed:
    """An answer that is no success, as an error: the server's own problem, or what some other server meant."""
    try:
        problem: Problem = _Problem.model_validate_json(answer.content)
    except ValidationError:
        problem = _foreign(answer)
    asked = answer.headers.get("retry-after", "")
    if asked.isdecimal():
        problem = problem.model_copy(update={"retry_after_s": int(asked)})
    return RequestFailed(problem)


def _foreign(answer: httpx.Response) -> Problem:
    """Of a proxy, or of whoever else is at the address."""
    said = f"{answer.status_code} {answer.reason_phrase}"
    where = f", moved to {answer.headers['location']}" if "location" in answer.headers else ""
    return Problem(
        type="about:blank",
        title=answer.reason_phrase,
        status=answer.status_code,
        grpc_code="",
        detail=f"{answer.request.url} answered {said}{where}, not as this service.",
        advice="Check that the address is that of an OMGSR service.",
    )


def timings_of(answer: httpx.Response) -> dict[str, float]:
    """Server-Timing's stages, in seconds."""
    said = re.findall(r"([\w-]+);dur=([\d.]+)", answer.headers.get("server-timing", ""))
    return {name: float(ms) / 1000 for name, ms in said}


def file_name_of(answer: httpx.Response) -> str:
    """The name that the server gives its file, without folders."""
    said = re.search(r"filename\*=UTF-8''([^;\s]+)", answer.headers.get("content-disposition", ""))
    return re.split(r"[/\\]", unquote(said[1]))[-1] if said else ""
