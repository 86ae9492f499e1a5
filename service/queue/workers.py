"""The queue as a worker sees it: register, lease, renew, and bring each job to an end."""

import asyncio
from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from json import loads
from uuid import uuid4

from pydantic import ValidationError

from service.errors import DeadlinePassed, ProcessingFailed, Unavailable
from service.job import DEVICE_STAGES, Job, JobState, Leased, Problem, Result, VariantInfo, lines
from service.queue.connection import BLOCK_MS, Connection

_TOO_LATE = DeadlinePassed("The job's deadline passed before its image was made.").problem().model_dump_json()
_UNSERVED = (
    Unavailable(
        "The job's model is served no more: no worker that has it came back in time.",
        "Name another model; GET /v1/models lists them.",
    )
    .problem()
    .model_dump_json()
)
_UNREADABLE = ProcessingFailed(
    "The job was written by another release, and this one cannot read it.",
    "Upgrade the workers; then the operator replays it (`omgsr jobs replay`).",
).problem()


@dataclass(frozen=True)
class Reclaimed:
    """How many jobs a reclaim has found, by what became of them."""

    requeued: int = 0
    """Back in line: their worker fell silent."""
    dead: int = 0
    """Given up: it was the last delivery that they had."""
    expired: int = 0
    """Failed: their deadline has passed."""
    abandoned: int = 0
    """Cancelled: nobody asks for them any more."""


class WorkerSide(Connection):
    """Jobs by their ids and by the attempt that holds them."""

    async def register(self, worker: str, variants: Iterable[VariantInfo], ttl_s: float) -> int:
        """Say that the worker lives and what it serves; it counts as alive for `ttl_s` seconds, 0: it leaves.

        Returns how many workers are alive.
        """
        known = [text for info in variants for line in lines(info.name) for text in (line, info.model_dump_json())]
        return int(await self._run("register", worker, ttl_s, self.variants_known_s, *known))

    async def calibrate(self, variant: str, s_per_mp: float) -> None:
        """Say how many device seconds a megapixel takes, unless that is known from jobs already."""
        for line in lines(variant):
            await self._run("calibrate", line, s_per_mp)

    async def lease(
        self, variants: Iterable[str], worker: str, count: int, *, but: Collection[str] = ()
    ) -> list[Leased]:
        """Take up to `count` jobs from the line; the worker holds each as long as it renews its lease.

        Jobs whose deadline has passed fail instead, and so does one that cannot be read: a dead letter. A job of one
        of the clients in `but` is not taken, nor what is behind it.
        """
        terms = self.lease_s, count, self.result_ttl_s, _TOO_LATE
        served = [line for variant in variants for line in lines(variant)]
        leased = []
        for text, attempt, waited, suspect in await self._run(
            "lease", uuid4().hex, worker, *terms, len(but), *but, *served
        ):
            try:
                job = Job.read(text)
            except ValidationError:
                await self.fail(loads(text)["id"], int(attempt), _UNREADABLE, dead=True)
            else:
                leased.append(Leased(job=job, attempt=int(attempt), waited_s=float(waited), suspect=bool(suspect)))
        return leased

    async def arrival(self, after: str) -> str:
        """Wait about two seconds for a job to get in line after `after`, and return where to wait from next."""
        entries = await self._read("arrivals", after, block_ms=BLOCK_MS)
        return entries[-1][0] if entries else after

    def watch_called_off(self, job_id: str) -> AbstractContextManager[asyncio.Event]:
        """An event that is set when the job ends within the block while a worker has it, and not by its doing.

        What this misses, `renew` tells: an API of an older release does not write that stream.
        """
        return self._called_off.watch(job_id)

    async def renew(self, held: Mapping[str, int]) -> set[str]:
        """Renew the leases of the attempts given by job id, and return the ids that are held still."""
        pairs = [value for pair in held.items() for value in pair]
        return set(await self._run("renew", self.lease_s, *pairs))

    async def progress(self, job_id: str, attempt: int, done: int, total: int) -> bool:
        """Tell how many tiles are done; False when this attempt holds the job no more (as all below)."""
        return bool(await self._run("progress", job_id, attempt, done, total))

    async def finish(self, job_id: str, attempt: int, result: Result) -> bool:
        """The job has succeeded. Its device stages teach the queue what a megapixel of the variant takes."""
        seconds = sum(result.seconds.get(stage, 0.0) for stage in DEVICE_STAGES)
        told = result.model_dump_json(), self.result_ttl_s, result.bytes, seconds
        return bool(await self._run("finish", job_id, attempt, *told))

    async def fail(
        self, job_id: str, attempt: int, problem: Problem, *, retry: bool = False, dead: bool = False
    ) -> JobState | None:
        """The attempt has failed. Returns the state the job is in now; None when this attempt held it no more.

        With `retry` the job goes back in line as long as deliveries are left; without any, or with `dead`, it becomes
        a dead letter; with neither it has failed by its own fault, and that is all.
        """
        way = "dead" if dead else "retry" if retry else "fail"
        terms = self.result_ttl_s, self.dead_ttl_s, way, self.max_attempts
        state = await self._run("fail", job_id, attempt, problem.model_dump_json(), *terms)
        return JobState(state) if state else None

    async def release(self, job_id: str, attempt: int) -> bool:
        """Give the job back untouched, to its old place in line; the attempt does not count."""
        return bool(await self._run("release", job_id, attempt))

    async def reclaim(self) -> Reclaimed:
        """Look after the jobs that nobody looks after; every worker does so about once a second.

        Jobs of silent workers go back in line, or are given up when they are out of deliveries. Jobs past their
        deadline, and those that wait for a variant that has long been unknown, are failed. Attended jobs that nobody
        asks for are cancelled.
        """
        died = ProcessingFailed(
            f"The worker died or fell silent on this image, {self.max_attempts} times in a row.",
            "Try another file or a smaller scale; the operator finds the cause in the workers' logs.",
        ).problem()
        terms = self.result_ttl_s, self.dead_ttl_s, self.max_attempts, died.model_dump_json(), _TOO_LATE
        return Reclaimed(*await self._run("reclaim", *terms, self.attend_s, self.variants_known_s, _UNSERVED))
