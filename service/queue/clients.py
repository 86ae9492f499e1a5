"""The queue as those who want images see it: submit, watch, cancel."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from typing import Any

from pydantic import ValidationError

from service.errors import JobNotFound, KeyReused, WorkersTooOld
from service.job import Event, Job, JobState, JobStatus, Problem, Receipt, Result, VariantInfo
from service.queue.connection import BLOCK_MS, Connection, patiently
from service.queue.fleet import Fleet
from service.queue.limits import NO_LIMITS, Limits

LOOK_AGAIN_S = 30.0


class ClientSide(Connection):
    """Jobs by their ids."""

    async def submit(self, job: Job, limits: Limits = NO_LIMITS) -> Receipt:
        """Put a job in line. The same id again changes nothing; a known idempotency key joins the job it belongs to.

        Priority goes first, then the clients take turns by megapixels and weights, then the order of arrival.
        Raises QueueFull, ShareFull, StorageFull, RateExceeded (each with `retry_after_s`), KeyReused and WorkersTooOld.
        """
        bounds = {name: bound for name, bound in vars(limits).items() if bound is not None}
        answer = await self._run("submit", job.model_dump_json(), json.dumps(bounds), self.attend_s)
        if answer[0] == "refused":
            raise limits.refusal(answer[1], int(answer[2]))
        if answer[0] == "unserved":
            raise WorkersTooOld(f"No worker knows jobs of format {job.version}, which this request needs.")
        return _receipt(answer)

    async def joined(self, client: str, idempotency_key: str, digest: str) -> Receipt | None:
        """The job that a submit with this key would join; None when the key is free. Raises KeyReused.

        A key stands for its job while that is not final, and for a success as long as that is known; of a job that
        failed or was cancelled it is free again.
        """
        answer = await self._run("joined", client, idempotency_key, digest)
        return _receipt(answer) if answer else None

    async def attend(self, job_ids: Iterable[str], for_s: float) -> None:
        """Say that somebody waits for these attended jobs, and will say so again within `for_s` seconds."""
        await self._run("attend", for_s, *job_ids)

    async def status(self, job_id: str) -> JobStatus:
        """Where the job stands."""
        answer = await self._run("status", job_id)
        if not answer:
            raise JobNotFound(f"There is no job {job_id}.")
        return _status(*answer)

    async def cancel(self, job_id: str) -> JobState:
        """Cancel a job that is not final yet, and return the state it is in now."""
        state = await self._run("cancel", job_id, self.result_ttl_s)
        if state is None:
            raise JobNotFound(f"There is no job {job_id}.")
        return JobState(state)

    async def events(self, job_id: str, after: str = "0") -> AsyncIterator[Event]:
        """What happened to the job after the event `after`, and what happens to it, until it is final.

        A server that is away for up to OUTAGE_S is waited for.
        """
        stream = f"events:{job_id}"
        ended = (await patiently(lambda: self.status(job_id))).state.final
        while True:
            block_ms = None if ended else BLOCK_MS
            entries = await patiently(lambda: self._read(stream, after, block_ms))  # noqa: B023 — awaited at once
            for event_id, fields in entries:
                after, event = event_id, Event.model_validate_strings({"id": event_id, **fields}, extra="ignore")
                yield event
                if event.final:
                    return
            if not entries:
                if ended:
                    return
                ended = (await patiently(lambda: self.status(job_id))).state.final

    async def wait(self, job_id: str) -> JobStatus:
        """Return the job's status once it is final. Any number of callers share one connection."""
        with self._endings.watch(job_id) as ended:
            while not (status := await patiently(lambda: self.status(job_id))).state.final:
                with suppress(TimeoutError):  # looks again by itself, should it have missed the news
                    await asyncio.wait_for(ended.wait(), LOOK_AGAIN_S)
                ended.clear()  # a server that was restarted may not know of this end any more
        return status

    async def exists(self, job_ids: Iterable[str]) -> set[str]:
        """Those of the ids that are jobs still: waiting, running, or final within their time to live."""
        return set(await self._run("exists", *job_ids))

    async def fleet(self) -> Fleet:
        """Who serves, what waits, what is kept."""
        return Fleet.of(await self._run("fleet"))

    async def workers_alive(self) -> int:
        """How many workers have sent a heartbeat of late."""
        return (await self.fleet()).workers

    async def variants(self) -> dict[str, VariantInfo]:
        """What the workers serve, by name, then what they served of late (a replacement may be on its way)."""
        return (await self.fleet()).variants


def _receipt(answer: list[Any]) -> Receipt:
    if answer[0] == "reused":
        raise KeyReused("The idempotency key was used for another file, or with other options.")
    said, job_id, position = answer
    return Receipt(job_id=job_id, position=max(0, int(position)), joined=said == "joined")


def _status(pairs: list[str], position: int, eta_s: str) -> JobStatus:
    told = dict(zip(pairs[::2], pairs[1::2], strict=True))
    job, readable = _job(told["job"])
    return JobStatus(
        job=job,
        readable=readable,
        state=JobState(told["state"]),
        position=position if position >= 0 else None,
        attempt=int(told["attempt"]),
        worker=told.get("worker", ""),
        tiles_done=int(told["tiles_done"]),
        tiles_total=int(told["tiles_total"]),
        created_at=float(told["created_at"]),
        started_at=float(told["started_at"]) if "started_at" in told else None,
        finished_at=float(told["finished_at"]) if "finished_at" in told else None,
        eta_s=float(eta_s) if eta_s else None,
        result=Result.read(told["result"]) if "result" in told else None,
        error=Problem.read(told["error"]) if "error" in told else None,
    )


def _job(text: str) -> tuple[Job, bool]:
    try:
        return Job.read(text), True
    except ValidationError:
        return Job.seen(text), False
