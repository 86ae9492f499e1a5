"""The one way a photo becomes a job: REST and gRPC both come through here."""

import asyncio
import hashlib
import re
import uuid
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import structlog
from pydantic import ValidationError

from service.api.auth import Caller
from service.api.offer import Offer
from service.api.watch import Watch, just_in_line
from service.errors import BadOption, BadRequest, KeyReused, TooManyRequests, Unavailable, WorkersTooOld
from service.images import inspect
from service.job import Job, JobStatus, UpscaleOptions
from service.limits import check_result, device_megapixels
from service.queue.blobs import BlobStore, input_key
from service.queue.queue import Queue
from service.settings import Settings
from service.tracing import traceparent

DECODERS = 2
"""Files decoded at once to see that they are whole; it bounds memory at about this many images."""

SLOT_WAIT_S = 2.0
"""How long an upload waits for its turn before it is refused."""

_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_log = structlog.get_logger(__name__)


def parse_options(fields: Iterable[tuple[str, str]]) -> UpscaleOptions:
    """Options from names and texts; an empty text is an option not given."""
    given: dict[str, str] = {}
    for name, text in fields:
        if name in given:
            raise BadOption(f"The option `{name[:50]}` is given more than once.", "Give each option once.")
        given[name] = text
    if "url" in given:
        raise BadOption("Images are not fetched from a URL.", "Send the file itself in the field `image`.")
    if unknown := sorted(given.keys() - UpscaleOptions.model_fields.keys()):
        known = ", ".join(UpscaleOptions.model_fields)
        raise BadOption(f"There is no option `{unknown[0][:50]}`.", f"The options are: {known}.")
    try:
        return UpscaleOptions.model_validate({name: text for name, text in given.items() if text})
    except ValidationError as error:
        raise bad_option(error) from error


def bad_option(error: ValidationError) -> BadOption:
    """Every option that is out of its range, in one sentence each."""
    said = [
        f"{'.'.join(map(str, e['loc']))}: {e['msg']} (got {str(e['input'])[:50]!r})" if e["loc"] else e["msg"]
        for e in error.errors()
    ]
    return BadOption("; ".join(said) + ".")


@dataclass(frozen=True)
class Submitted:
    """A job in line, and its end."""

    job: Job
    position: int
    joined: bool
    """The idempotency key was known: this is the job of its first request."""
    finished: asyncio.Task[JobStatus]


@dataclass
class Admission:
    """Checks a file and its options, stores the bytes, puts the job in line."""

    settings: Settings
    queue: Queue
    blobs: BlobStore
    _decoders: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(DECODERS, "decode-check"))
    offer: Offer = field(init=False)
    _watch: Watch = field(init=False)
    _uploads: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self._uploads = asyncio.Semaphore(self.settings.max_uploads_in_flight)
        self.offer = Offer(self.queue, self.settings.default_model)
        self._watch = Watch(self.queue, self.settings.attend_s)

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
        self,
        data: bytes,
        options: UpscaleOptions,
        caller: Caller,
        *,
        filename: str = "",
        request_id: str = "",
        idempotency_key: str = "",
        attended: bool = False,
    ) -> Submitted:
        """Take the photo, or raise the ServiceError that says why not.

        A known `idempotency_key` joins the job of its first request. An `attended` job is cancelled when this process
        dies before it: somebody waits here for its end.
        """
        _check_allowed(options, caller, idempotency_key)
        digest = ""
        if idempotency_key:
            digest = await asyncio.to_thread(_digest, data, options)
            known = await self.queue.joined(caller.name, idempotency_key, digest)
            if known is not None:
                return await self._join(known.job_id)
        job = await self._plan(data, options, filename)
        job = job.model_copy(
            update={
                "client": caller.name,
                "weight": caller.weight,
                "idempotency_key": idempotency_key,
                "digest": digest,
                "attended": attended,
                "request_id": request_id,
                "traceparent": traceparent(),
            }
        )
        return await self._put_in_line(job, data, caller)

    def close(self) -> None:
        """Let go of the jobs in line; those that nobody attends to are dropped in time, the others go on."""
        self._watch.close()
        self.offer.close()
        self._decoders.shutdown(wait=False, cancel_futures=True)

    async def _plan(self, data: bytes, options: UpscaleOptions, filename: str) -> Job:
        """The job that the file and the options make, once both are found good."""
        variant = await self.offer.find(options.model)
        loop = asyncio.get_running_loop()
        size = await loop.run_in_executor(
            self._decoders, lambda: inspect(data, max_pixels=self.settings.max_input_pixels)
        )
        max_pixels = self.settings.max_output_pixels
        check_result(size, options.scale, options.format, variant.process_size, max_pixels)
        job_id = uuid.uuid4().hex
        return Job(
            id=job_id,
            options=options.model_copy(update={"model": variant.name}),
            width=size[0],
            height=size[1],
            input_key=input_key(job_id),
            filename=filename,
            cost=device_megapixels(size, options.scale, variant.process_size),
            bytes=len(data),
        )

    async def _put_in_line(self, job: Job, data: bytes, caller: Caller) -> Submitted:
        try:
            await asyncio.to_thread(self.blobs.put, job.input_key, data)
        except OSError as error:
            _log.exception("the blob store takes no file")
            raise Unavailable("The server cannot store the file now.") from error
        try:
            receipt = await self.queue.submit(job, caller.limits)
        except (TooManyRequests, KeyReused, WorkersTooOld):  # no other: after a lost answer the job may be in line
            await self._forget(job)
            raise
        if receipt.joined:  # by a twin that came between
            await self._forget(job)
            return await self._join(receipt.job_id)
        return Submitted(job, receipt.position, joined=False, finished=self._watch.begin(job))

    async def _join(self, job_id: str) -> Submitted:
        with just_in_line(job_id):
            status = await self.queue.status(job_id)
        return Submitted(status.job, status.position or 0, joined=True, finished=self._watch.join(status.job))

    async def _forget(self, job: Job) -> None:
        try:
            await asyncio.to_thread(self.blobs.delete, job.id)
        except OSError:  # swept later, as every orphan is
            _log.warning("a refused job's file stays for the sweep", job=job.id, exc_info=True)


def _check_allowed(options: UpscaleOptions, caller: Caller, idempotency_key: str) -> None:
    if options.priority > caller.max_priority:
        raise BadOption(
            f"priority: {options.priority} is above the {caller.max_priority} that this API key may ask for.",
            "Ask for less, or for a key that may.",
        )
    if idempotency_key and not _IDEMPOTENCY_KEY.fullmatch(idempotency_key):
        raise BadRequest(
            "The idempotency key is longer than 255 characters, or holds some that cannot be seen.",
            "Use up to 255 visible ASCII characters, such as a UUID.",
        )


def _digest(data: bytes, options: UpscaleOptions) -> str:
    """Of the file and of the options as they were asked for: what may share an idempotency key."""
    known = hashlib.sha256(options.model_dump_json().encode())
    known.update(data)
    return known.hexdigest()
