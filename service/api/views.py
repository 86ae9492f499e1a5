"""What REST shows of the queue's records."""

import time

from pydantic import BaseModel, Field

from service.job import JobState, JobStatus, Problem, VariantInfo


class JobView(BaseModel):
    """A job. Times are Unix seconds."""

    id: str
    state: JobState
    model: str
    position: int | None = Field(description="0 is next; only while queued")
    tiles_done: int
    tiles_total: int = Field(description="0 until the worker has planned the image")
    eta_s: float | None = Field(description="seconds to the end, by the tiles done so far")
    created_at: float
    started_at: float | None
    finished_at: float | None
    error: Problem | None = Field(None, description="only of a failed job")

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
            eta_s=_eta(status),
            created_at=status.created_at,
            started_at=status.started_at,
            finished_at=status.finished_at,
            error=status.error,
        )

    def json_bytes(self) -> bytes:
        """`error` is there only when there is one."""
        return self.model_dump_json(exclude={"error"} if self.error is None else {"error": {"grpc_code"}}).encode()


class ModelsView(BaseModel):
    """The models that are served."""

    default: str = Field(description="used when a request names none")
    models: list[VariantInfo]


def _eta(status: JobStatus) -> float | None:
    if status.state is not JobState.RUNNING or not status.tiles_done or status.started_at is None:
        return None
    spent = max(0.0, time.time() - status.started_at)
    return round(spent * (status.tiles_total - status.tiles_done) / status.tiles_done, 3)
