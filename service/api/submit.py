"""The one way a photo becomes a job: REST and gRPC both come through here."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import PurePath

import structlog
from pydantic import ValidationError

from service.errors import BadOption, Unavailable, UnknownModel
from service.images import inspect
from service.job import Job, JobStatus, UpscaleOptions, VariantInfo
from service.limits import check_result
from service.queue.blobs import BlobStore, input_key
from service.queue.queue import Queue
from service.settings import Settings
from service.telemetry import record_finished

DECODERS = 2
"""Files decoded at once to see that they are whole; it bounds memory at about this many images."""

SLOT_WAIT_S = 2.0
"""How long an upload waits for its turn before it is refused."""

_EXTENSIONS = {"png": "png", "jpeg": "jpg", "webp": "webp", "avif": "avif"}
_log = structlog.get_logger(__name__)


def parse_options(fields: Iterable[tuple[str, str]]) -> UpscaleOptions:
    """Options from names and texts; an empty text is an option not given."""
    given: dict[str, str] = {}
    for name, text in fields:
        if name in given:
            raise BadOption(f"The option `{name}` is given more than once.", "Give each option once.")
        given[name] = text
    if unknown := sorted(given.keys() - UpscaleOptions.model_fields.keys()):
        known = ", ".join(UpscaleOptions.model_fields)
        raise BadOption(f"There is no option `{unknown[0][:50]}`.", f"The options are: {known}.")
    try:
        return UpscaleOptions.model_validate({name: text for name, text in given.items() if text})
    except ValidationError as error:
        raise bad_option(error) from error


def bad_option(error: ValidationError) -> BadOption:
    """Every option that is out of its range, in one sentence each."""
    said = [f"{'.'.join(map(str, e['loc']))}: {e['msg']} (got {str(e['input'])[:50]!r})" for e in error.errors()]
    return BadOption("; ".join(said) + ".")


@dataclass(frozen=True)
class Submitted:
    """A job in line, and its end."""

    job: Job
    position: int
    finished: asyncio.Task[JobStatus]


@dataclass
class Admission:
    """Checks a file and its options, stores the bytes, puts the job in line."""

    settings: Settings
    queue: Queue
    blobs: BlobStore
    _decoders: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(DECODERS, "decode-check"))
    _watched: set[asyncio.Task[JobStatus]] = field(default_factory=set)
    _uploads: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self._uploads = asyncio.Semaphore(self.settings.max_uploads_in_flight)

    @asynccontextmanager
    async def upload_slot(self) -> AsyncIterator[None]:
        """The right to hold one file in memory, from its first byte until it is stored. Raises Unavailable."""
        try:
            async with asyncio.timeout(SLOT_WAIT_S):
                await self._uploads.acquire()
        except TimeoutError:
            raise Unavailable("The server is busy with as many uploads as it can hold at once.") from None
        try:
            yield
        finally:
            self._uploads.release()

    async def submit(
        self, data: bytes, options: UpscaleOptions, *, filename: str = "", request_id: str = ""
    ) -> Submitted:
        """Take the photo, or raise the ServiceError that says why not."""
        variant = await self.variant(options.model)
        options = options.model_copy(update={"model": variant.name})
        loop = asyncio.get_running_loop()
        width, height = await loop.run_in_executor(
            self._decoders, lambda: inspect(data, max_pixels=self.settings.max_input_pixels)
        )
        max_pixels = self.settings.max_output_pixels
        check_result((width, height), options.scale, options.format, variant.process_size, max_pixels)
        job_id = uuid.uuid4().hex
        job = Job(
            id=job_id,
            options=options,
            width=width,
            height=height,
            input_key=input_key(job_id),
            filename=filename,
            request_id=request_id,
        )
        try:
            await asyncio.to_thread(self.blobs.put, job.input_key, data)
        except OSError as error:
            _log.exception("the blob store takes no file")
            raise Unavailable("The server cannot store the file now.") from error
        position = await self.queue.submit(job)
        return Submitted(job, position, self._watch(job))

    async def fetch(self, key: str) -> bytes:
        """A finished job's file."""
        return await asyncio.to_thread(self.blobs.get, key)

    async def variant(self, name: str) -> VariantInfo:
        """The variant of that name; for an empty name the server's default."""
        variants = await self.queue.variants()
        if not variants:
            raise Unavailable("No worker has started yet, so no model is served.")
        name = name or self.settings.default_model or next(iter(variants))
        if name not in variants:
            raise UnknownModel(f"No model named {name!r} is served.", f"Served are: {', '.join(variants)}.")
        return variants[name]

    def close(self) -> None:
        """Let go of the jobs in line; they go on without this process."""
        for task in self._watched:
            task.cancel()
        self._decoders.shutdown(wait=False, cancel_futures=True)

    def _watch(self, job: Job) -> asyncio.Task[JobStatus]:
        """Wait for the job's end beside whoever asked for it, and count it: each job once, whoever fetches it."""
        task = asyncio.create_task(self._finished(job.id))
        self._watched.add(task)
        task.add_done_callback(self._seen)
        return task

    def _seen(self, task: asyncio.Task[JobStatus]) -> None:
        self._watched.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("lost sight of a job", error=repr(error))

    async def _finished(self, job_id: str) -> JobStatus:
        status = await self.queue.wait(job_id)
        record_finished(status)
        _log.info(
            "job finished",
            job=job_id,
            request_id=status.job.request_id,
            state=status.state.value,
            attempt=status.attempt,
            error=status.error.detail if status.error else None,
        )
        return status


def result_name(job: Job) -> str:
    """A file name for the result that keeps the input's: photo.jpg → photo_4x.png."""
    stem = PurePath(job.filename).stem or "image"
    return f"{stem}_{job.options.scale:g}x.{_EXTENSIONS[job.options.format]}"
