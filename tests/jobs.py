"""A job as tests put it in line, and how it may end."""

from service.errors import ProcessingFailed
from service.job import Job, Result, UpscaleOptions
from service.queue.blobs import input_key

RESULT = Result(key="k", mime_type="image/png", width=4, height=4, bytes=9)
PROBLEM = ProcessingFailed("It went wrong.").problem()


def job(
    name: str,
    *,
    model: str = "m",
    priority: int = 0,
    deadline_s: float | None = None,
    client: str = "anonymous",
    weight: float = 1.0,
    cost: float = 1.0,
    key: str = "",
    digest: str = "",
    size: int = 3,
    attended: bool = False,
) -> Job:
    return Job(
        id=name,
        options=UpscaleOptions(model=model, priority=priority, deadline_s=deadline_s),
        width=4,
        height=4,
        input_key=input_key(name),
        client=client,
        weight=weight,
        cost=cost,
        idempotency_key=key,
        digest=digest,
        bytes=size,
        attended=attended,
    )
