"""What REST shows of the queue's records."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from service.job import JobState, JobStatus, Problem, VariantInfo

JOB_ID = "0b7c4f1e9a5d4c6b8e2f3a1d7c9b5e04"
PROBLEM_EXAMPLE: dict[str, Any] = {
    "type": "urn:omgsr:problem:job-not-found",
    "title": "No such job",
    "status": 404,
    "detail": f"There is no job {JOB_ID}.",
    "advice": "Check the id; jobs and results are kept for a limited time only.",
}
RUNNING_EXAMPLE: dict[str, Any] = {
    "id": JOB_ID,
    "state": "running",
    "model": "omgsr-s-mini",
    "tiles_done": 3,
    "tiles_total": 9,
    "eta_s": 2.4,
    "created_at": 1767225600.0,
    "started_at": 1767225601.2,
}
QUEUED_EXAMPLE: dict[str, Any] = {
    "id": JOB_ID,
    "state": "queued",
    "model": "omgsr-s-mini",
    "position": 2,
    "tiles_done": 0,
    "tiles_total": 0,
    "eta_s": 7.5,
    "created_at": 1767225600.0,
}
CANCELLED_EXAMPLE: dict[str, Any] = {
    "id": JOB_ID,
    "state": "cancelled",
    "model": "omgsr-s-mini",
    "tiles_done": 0,
    "tiles_total": 0,
    "created_at": 1767225600.0,
    "finished_at": 1767225602.9,
}
MODELS_EXAMPLE: dict[str, Any] = {
    "default": "omgsr-s-mini",
    "models": [
        {
            "name": "omgsr-s-mini",
            "family": "sd",
            "base": "omgsr-mini-base",
            "mid_timestep": 195,
            "native_size": 128,
            "process_size": 128,
            "license": "GPL-3.0-only",
            "color_fix": "adain",
            "seconds_per_megapixel": 1.7,
        }
    ],
}


class ProblemView(BaseModel):
    """An RFC 9457 problem: what went wrong, and what to do about it."""

    model_config = ConfigDict(json_schema_extra={"example": PROBLEM_EXAMPLE})

    type: str
    title: str
    status: int = Field(description="HTTP status")
    detail: str
    advice: str = Field(description="what to do about it")
    retry_after_s: int | None = Field(
        None, description="seconds after which the same request is likely to be taken; only where that is known"
    )

    @classmethod
    def of(cls, problem: Problem) -> "ProblemView":
        """The problem without what is for gRPC."""
        return cls.model_validate(problem.model_dump(exclude={"grpc_code"}))


class JobView(BaseModel):
    """A job. Times are Unix seconds."""

    model_config = ConfigDict(json_schema_extra={"example": RUNNING_EXAMPLE})

    id: str
    state: JobState
    model: str
    position: int | None = Field(None, description="0 is next; only while queued")
    tiles_done: int
    tiles_total: int = Field(description="0 until the worker has planned the image")
    eta_s: float | None = Field(None, description="seconds to the end, as far as the service knows its own speed")
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    error: ProblemView | None = Field(None, description="only of a failed job")

    @classmethod
    def of(cls, status: JobStatus) -> "JobView":
        """The job as a client sees it."""
        return cls(
            id=status.job.id,
            state=status.state,
            model=status.job.options.model,
            position=status.position,
            tiles_done=status.tiles_done,
            tiles_total=status.tiles_total,
            eta_s=_rounded(status.eta_s),
            created_at=status.created_at,
            started_at=status.started_at,
            finished_at=status.finished_at,
            error=ProblemView.of(status.error) if status.error else None,
        )

    def json_bytes(self) -> bytes:
        """`error` is there only when there is one."""
        return self.model_dump_json(exclude={"error"} if self.error is None else _known(self.error)).encode()


class EventView(BaseModel):
    """What one line of a job's events says."""

    state: JobState
    position: int | None = Field(description="0 is next; only while queued")
    tiles_done: int
    tiles_total: int
    eta_s: float | None
    error: ProblemView | None = None

    @classmethod
    def of(cls, state: JobState, tiles: tuple[int, int], status: JobStatus) -> "EventView":
        """An event of `state`, with what the queue's record adds to it now."""
        failed = state is JobState.FAILED and status.error is not None
        return cls(
            state=state,
            position=status.position if state is JobState.QUEUED else None,
            tiles_done=tiles[0],
            tiles_total=tiles[1],
            eta_s=None if state.final else _rounded(status.eta_s),
            error=ProblemView.of(status.error) if failed and status.error else None,
        )

    def json_text(self) -> str:
        """`error` is there only when there is one."""
        return self.model_dump_json(exclude={"error"} if self.error is None else _known(self.error))


class ModelsView(BaseModel):
    """The models that are served."""

    model_config = ConfigDict(json_schema_extra={"example": MODELS_EXAMPLE})

    default: str = Field(description="used when a request names none")
    models: list[VariantInfo]


def _known(error: ProblemView) -> dict[str, set[str]]:
    return {"error": {"retry_after_s"} if error.retry_after_s is None else set()}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
