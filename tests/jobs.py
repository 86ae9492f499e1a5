"""A job as tests put it in line, and how it may end."""

from service.errors import ProcessingFailed
from service.job import Job, Result, UpscaleOptions
from service.queue.blobs import input_key

RESULT = Result(key="k", mime_type="image/png", width=4, height=4, bytes=9)
PROBLEM = ProcessingFailed("It went wrong.").problem()


def job(name: str, *, model: str = "m", priority: int = 0) -> Job:
    options = UpscaleOptions(model=model, priority=priority)
    return Job(id=name, options=options, width=4, height=4, input_key=input_key(name))
