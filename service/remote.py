"""`omgsr upscale --server URL`: a folder of photos through a service, several at once."""

import asyncio
import hashlib
import platform
from collections.abc import Iterator
from pathlib import Path

import httpx

from service.answers import JobEvent
from service.client import Client
from service.errands import Errand, in_format, plan_errands
from service.errors import RequestFailed, ServiceError, Unavailable, UnknownModel
from service.job import OutputFormat, UpscaleOptions
from service.upscale_report import Report

GREETING_S = 5.0
"""How long the server may take to answer at all, before any photo is sent."""

PATIENCE_S = 1800.0
"""How long one photo is tried: a new release of the service, or its rush hour."""


def upscale_remotely(
    source: Path,
    target: Path,
    options: UpscaleOptions,
    wanted: OutputFormat | None,
    *,
    server: str,
    api_key: str | None,
    at_once: int,
    overwrite: bool,
) -> int:
    """Upscale a file or a folder by the service at `server` and return how many files failed.

    Results that exist are left as they are, and a job that a killed run had begun is joined: it goes on where that
    stopped. Ctrl-C cancels the jobs under way.
    """
    plan = plan_errands(source, target, wanted, overwrite=overwrite)
    options = in_format(options, plan.format)
    with Report(plan) as report:
        asyncio.run(_Run(options, report, iter(plan.errands)).all(server, api_key, at_once))
    return report.failed


class _Run:
    def __init__(self, options: UpscaleOptions, report: Report, errands: Iterator[Errand]) -> None:
        self._options, self._report, self._errands = options, report, errands
        self._stop: Exception | None = None

    async def all(self, server: str, api_key: str | None, at_once: int) -> None:
        async with Client(server, api_key, patience_s=GREETING_S) as client:
            served = [model.name for model in (await client.models()).models]
        if served and self._options.model not in ("", *served):
            raise UnknownModel(f"There is no model {self._options.model!r}.", f"Choose one of: {', '.join(served)}.")
        async with (
            Client(server, api_key, patience_s=PATIENCE_S, on_wait=self._waits) as client,
            asyncio.TaskGroup() as lanes,
        ):
            for _ in range(at_once):
                lanes.create_task(self._lane(client))
        if self._stop is not None:
            raise self._stop

    async def _lane(self, client: Client) -> None:
        """One photo after the other."""
        for errand in self._errands:
            if self._stop is not None:
                return
            try:
                await self._upscale(client, errand)
            except (ServiceError, OSError) as error:
                self._report.failure(errand, error)
                if _of_the_whole(error):
                    self._stop = error
            else:
                self._report.made(errand)

    async def _upscale(self, client: Client, errand: Errand) -> None:
        def told(event: JobEvent) -> None:
            self._report.say(errand.source.name)
            self._report.working(errand, event.tiles_done / max(1, event.tiles_total))

        key = await asyncio.to_thread(_key, errand, self._options)
        await client.upscale(
            errand.source,
            self._options,
            into=errand.target,
            idempotency_key=key,
            on_progress=told,
        )

    def _waits(self, error: ServiceError, wait_s: float) -> None:
        self._report.say(f"trying again in {wait_s:.0f} s: {error.detail}")


def _of_the_whole(error: Exception) -> bool:
    """Whether every other photo would meet the same."""
    gone = isinstance(error, Unavailable)
    return gone or (isinstance(error, RequestFailed) and error.found.status == httpx.codes.UNAUTHORIZED)


def _key(errand: Errand, options: UpscaleOptions) -> str:
    """The same for the same wish in every run: what a killed run had submitted is joined, and nobody else's job."""
    with errand.source.open("rb") as file:
        known = hashlib.file_digest(file, "sha256")
    for word in (options.model_dump_json(), platform.node(), str(errand.target.resolve())):
        known.update(b"\0" + word.encode("utf-8", "surrogateescape"))
    return f"omgsr-upscale-{known.hexdigest()}"
