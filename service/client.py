"""A client of the service: it outlives lost connections, restarts of the service, and full queues.

    async with Client("http://127.0.0.1:8000") as client:
        made = await client.upscale(Path("photo.jpg"), UpscaleOptions(scale=2), into=Path("large.png"))

A photo is submitted under an idempotency key, so that submitting it again never makes a second job; then the job's
events are followed, from the last one seen on; then the result is fetched. Files are read and written as they go over
the wire: no more is held in memory than what the caller gives, or asks for, as bytes.
"""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import ExitStack, aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import quote

import httpx

from service.answers import JobEvent, Models, RemoteJob, events_in, failure_of, file_name_of, said_in, timings_of
from service.errands import appearing
from service.errors import BadOption, RequestFailed, ServiceError
from service.job import UpscaleOptions
from service.patience import Patience

SILENCE_S = 45.0
"""A stream of events that says nothing for so long is dead: the server says something every 15 s."""

LEAVE_S = 5.0
"""How long a call that is cancelled takes to cancel its job."""

MOST_LOSSES = 3
"""How often a photo is submitted again because the service lost its job."""

DEFAULTS = UpscaleOptions()
T = TypeVar("T")


@dataclass(frozen=True)
class Upscaled:
    """A result: in `data`, or in the file `path` when one was asked for."""

    job_id: str
    mime_type: str
    filename: str
    """The server's name for it, after the photo's."""
    timings: dict[str, float]
    """Seconds by stage."""
    data: bytes = b""
    path: Path | None = None


class Client:
    """Talks REST to one service. Its methods raise a ServiceError: what the server said, or that nobody answers.

    `timeout`: seconds of silence after which a connection is given up. `patience_s`: for how long one thing is tried
    again (no connection, 429, 503) before its failure is raised. `on_wait` is told of each such wait.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        timeout: float = 60.0,
        patience_s: float = 600.0,
        on_wait: Callable[[ServiceError, float], None] | None = None,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise BadOption(f"{url!r} is no server's address.", "Write it as http://HOST:PORT.")
        self._patience_s, self._on_wait = patience_s, on_wait
        self._stream_timeout = httpx.Timeout(timeout, read=max(timeout, SILENCE_S), pool=None)
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(timeout, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),  # each job followed holds one
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def upscale(
        self,
        source: bytes | Path,
        options: UpscaleOptions = DEFAULTS,
        *,
        into: Path | None = None,
        filename: str = "",
        idempotency_key: str = "",
        on_progress: Callable[[JobEvent], None] | None = None,
    ) -> Upscaled:
        """Upscale one photo; the result is in memory, or in the file `into`, which appears whole.

        A call that is cancelled cancels its job. With an `idempotency_key` the call joins the job of an earlier one,
        unless that failed or was cancelled. Raises OSError too, when a file cannot be read or written.
        """
        key, losses = idempotency_key or uuid.uuid4().hex, 0
        while True:
            job = await self.submit(source, options, filename=filename, idempotency_key=key)
            try:
                return await self.collect(job.id, into=into, on_progress=on_progress)
            except RequestFailed as error:  # gone with the server's memory, or its time was up: it is asked for anew
                losses += 1
                if error.found.status != httpx.codes.NOT_FOUND or losses > MOST_LOSSES:
                    raise

    async def submit(
        self,
        source: bytes | Path,
        options: UpscaleOptions = DEFAULTS,
        *,
        filename: str = "",
        idempotency_key: str = "",
    ) -> RemoteJob:
        """Put a photo in line, or join the job of the key. A call that is cancelled leaves no job behind."""
        key = idempotency_key or uuid.uuid4().hex
        name = filename or (source.name if isinstance(source, Path) else "image")

        async def post() -> RemoteJob:
            posting = asyncio.create_task(self._post(source, options, name, key))
            try:
                return await asyncio.shield(posting)
            except asyncio.CancelledError:
                await self._leave(posting)
                raise

        return await self._patiently(post)

    async def collect(
        self, job_id: str, *, into: Path | None = None, on_progress: Callable[[JobEvent], None] | None = None
    ) -> Upscaled:
        """Wait for a job's end and fetch its result. A call that is cancelled cancels the job."""
        try:
            async with aclosing(self.events(job_id)) as events:
                async for event in events:
                    if on_progress is not None:
                        on_progress(event)
            return await self.result(job_id, into=into)
        except asyncio.CancelledError:
            await self._leave(job_id)
            raise

    async def job(self, job_id: str) -> RemoteJob:
        """The job as it stands."""
        return said_in(await self._patiently(lambda: self._ask("GET", _path(job_id))), RemoteJob)

    async def events(self, job_id: str, *, after: str = "") -> AsyncGenerator[JobEvent, None]:
        """A job's events up to its final one, however often the connection is lost: none is missed or told twice.

        A job that moves up in line is told by another `queued` event of the same id. `after`: the last id seen.
        """
        patience = self._patience()
        ended: RemoteJob | None = None
        while True:
            try:
                async with aclosing(self._stream(job_id, after)) as events:
                    async for event in events:
                        patience.renew()
                        after = event.id
                        yield event
                        if event.state.final:
                            return
                if ended is not None:  # and its history does not say so
                    yield JobEvent.of(ended, after)
                    return
                raise httpx.RemoteProtocolError("the events ended before the job")
            except (httpx.RequestError, RequestFailed) as error:
                await patience.after(error)
                job = await self.job(job_id)
                ended = job if job.state.final else None

    async def result(self, job_id: str, *, into: Path | None = None) -> Upscaled:
        """The upscaled image of a job that has succeeded; of one that failed, what it failed of is raised."""
        return await self._patiently(lambda: self._fetch(job_id, into))

    async def cancel(self, job_id: str) -> RemoteJob:
        """Cancel a job; one that has ended stays as it is."""
        return said_in(await self._patiently(lambda: self._ask("DELETE", _path(job_id))), RemoteJob)

    async def models(self) -> Models:
        """The models that are served."""
        return said_in(await self._patiently(lambda: self._ask("GET", "/v1/models")), Models)

    async def ready(self) -> bool:
        """Whether the service can work now. Tried once, without patience."""
        try:
            return (await self._http.get("/readyz")).is_success
        except httpx.RequestError:
            return False

    def _patience(self) -> Patience:
        return Patience(str(self._http.base_url), self._patience_s, self._on_wait)

    async def _patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        patience = self._patience()
        while True:
            try:
                return await attempt()
            except (httpx.RequestError, RequestFailed) as error:
                await patience.after(error)

    async def _ask(self, method: str, path: str) -> httpx.Response:
        return _good(await self._http.request(method, path))

    async def _post(self, source: bytes | Path, options: UpscaleOptions, name: str, key: str) -> RemoteJob:
        fields = {field: str(value) for field, value in options.model_dump(exclude_defaults=True).items()}
        with ExitStack() as files:
            data = files.enter_context(source.open("rb")) if isinstance(source, Path) else source
            answer = await self._http.post(
                "/v1/upscale",
                files={"image": (name, data)},
                data=fields,
                headers={"Prefer": "respond-async", "Idempotency-Key": key},
            )
        return RemoteJob.submitted(_good(answer))

    async def _stream(self, job_id: str, after: str) -> AsyncGenerator[JobEvent, None]:
        """One connection's events after that one."""
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": after} if after else {})}
        path = f"{_path(job_id)}/events"
        async with self._http.stream("GET", path, headers=headers, timeout=self._stream_timeout) as answer:
            if not answer.is_success:
                await answer.aread()
            _good(answer)
            async with aclosing(events_in(answer)) as events:
                async for event in events:
                    yield event

    async def _fetch(self, job_id: str, into: Path | None) -> Upscaled:
        async with self._http.stream("GET", f"{_path(job_id)}/result") as answer:
            if into is None or not answer.is_success:
                await answer.aread()
            _good(answer)
            if into is not None:
                with appearing(into) as file:
                    async for chunk in answer.aiter_bytes():
                        file.write(chunk)
            return Upscaled(
                job_id=job_id,
                mime_type=answer.headers.get("content-type", ""),
                filename=file_name_of(answer),
                timings=timings_of(answer),
                data=answer.content if into is None else b"",
                path=into,
            )

    async def _leave(self, job: str | Awaitable[RemoteJob]) -> None:
        """Cancel the job, or the one that is just being submitted; once, and within a moment."""
        with suppress(ServiceError, httpx.HTTPError, OSError, TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                await self._ask("DELETE", _path(job if isinstance(job, str) else (await job).id))


def _good(answer: httpx.Response) -> httpx.Response:
    if not answer.is_success:
        raise failure_of(answer)
    return answer


def _path(job_id: str) -> str:
    return f"/v1/jobs/{quote(job_id, safe='')}"
