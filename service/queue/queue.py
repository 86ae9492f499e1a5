"""The queue of jobs, on Redis or Valkey: every change of a job's state is one atomic script.

An accepted job reaches exactly one final state whatever happens to a worker. A worker holds a job by a lease
that it renews; a lease that runs out puts the job back in line. Each delivery has its own number (`attempt`),
and only the attempt that holds the job can change it, so a worker that was away too long can do no harm.
Every script may run twice with the same arguments: the client library repeats a call whose answer was lost.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache
from importlib.resources import files
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import uuid4

from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import RedisError

from service.errors import JobNotFound, ProcessingFailed, Unavailable
from service.job import Event, Job, JobState, JobStatus, Leased, Problem, Result, VariantInfo
from service.queue.embedded import socket_url
from service.queue.endings import Endings
from service.settings import Settings

BLOCK_MS = 2_000  # well below the client's socket timeout of 5 s
VARIANTS_KNOWN_S = 600.0
CONNECTIONS = 64
POOL_PATIENCE_S = 20.0
RETRIES = 6  # over 1.3 s on average: a blip, or the embedded server's restart
LOOK_AGAIN_S = 30.0
OUTAGE_S = 60.0
OUTAGE_PAUSE_S = 0.2

T = TypeVar("T")


@cache
def _source(script: str) -> str:
    folder = files("service.queue")
    return (folder / "lib.lua").read_text() + (folder / f"{script}.lua").read_text()


class Queue:
    """Jobs in line, jobs in workers' hands, jobs done: the one source of truth between the processes."""

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "omgsr",
        lease_s: float = 15.0,
        max_attempts: int = 3,
        result_ttl_s: float = 3600.0,
        variants_known_s: float = VARIANTS_KNOWN_S,
    ) -> None:
        self.lease_s = lease_s
        self.max_attempts = max_attempts
        self.result_ttl_s = result_ttl_s
        self.variants_known_s = variants_known_s
        self._prefix = f"{{{namespace}}}:"
        retry = Retry(ExponentialWithJitterBackoff(base=0.05, cap=1), RETRIES)  # a client made from a URL has none
        told: dict[str, Any] = {"decode_responses": True, "retry": retry}
        self._redis = Redis.from_pool(
            BlockingConnectionPool.from_url(url, max_connections=CONNECTIONS, timeout=POOL_PATIENCE_S, **told)
        )
        # Reads that block keep a connection each; in a pool of their own they cannot starve the others.
        self._waiters = Redis.from_pool(ConnectionPool.from_url(url, max_connections=10_000, **told))
        self._endings = Endings(lambda stream, after: self._read(stream, after, BLOCK_MS))
        self._scripts: dict[str, Any] = {}

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The queue these settings speak of: `REDIS_URL`, or the embedded server of the state folder."""
        return cls(
            settings.redis_url or socket_url(settings.state_dir),
            namespace=settings.namespace,
            lease_s=settings.lease_s,
            max_attempts=settings.max_attempts,
            result_ttl_s=settings.result_ttl_s,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        self._endings.close()
        await self._redis.aclose()
        await self._waiters.aclose()

    async def ping(self) -> None:
        """Return when the server answers; raise Unavailable when it does not."""
        try:
            await self._redis.ping()
        except RedisError as error:
            raise _unavailable(error) from error

    # The client's side -----------------------------------------------------------------------------------------

    async def submit(self, job: Job) -> int:
        """Put a job in line and return its position there, 0 is next. The same id again changes nothing."""
        options = job.options
        return max(0, int(await self._run("submit", job.id, options.model, job.model_dump_json(), options.priority)))

    async def status(self, job_id: str) -> JobStatus:
        """Where the job stands."""
        answer = await self._run("status", job_id)
        if not answer:
            raise JobNotFound(f"There is no job {job_id}.")
        return _status(answer[0], answer[1])

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
        ended = (await _patiently(lambda: self.status(job_id))).state.final
        while True:
            block_ms = None if ended else BLOCK_MS
            entries = await _patiently(lambda: self._read(stream, after, block_ms))  # noqa: B023 — awaited at once
            for event_id, fields in entries:
                after, event = event_id, Event.model_validate_strings({"id": event_id, **fields})
                yield event
                if event.final:
                    return
            if not entries:
                if ended:
                    return
                ended = (await _patiently(lambda: self.status(job_id))).state.final

    async def wait(self, job_id: str) -> JobStatus:
        """Return the job's status once it is final. Any number of callers share one connection."""
        with self._endings.watch(job_id) as ended:
            while not (status := await _patiently(lambda: self.status(job_id))).state.final:
                with suppress(TimeoutError):  # looks again by itself, should it have missed the news
                    await asyncio.wait_for(ended.wait(), LOOK_AGAIN_S)
                ended.clear()  # a server that was restarted may not know of this end any more
        return status

    async def exists(self, job_ids: Iterable[str]) -> set[str]:
        """Those of the ids that are jobs still: waiting, running, or final within their time to live."""
        return set(await self._run("exists", *job_ids))

    async def active(self) -> list[JobStatus]:
        """The jobs that run, then those that wait, as the workers will take them."""
        found = []
        for job_id in await self._run("active"):
            with suppress(JobNotFound):
                found.append(await self.status(job_id))
        return found

    async def workers_alive(self) -> int:
        """How many workers have sent a heartbeat of late."""
        return int((await self._run("fleet"))[0])

    async def variants(self) -> dict[str, VariantInfo]:
        """What the workers serve, by name, then what they served of late (a replacement may be on its way)."""
        infos = [VariantInfo.model_validate_json(info) for info in (await self._run("fleet"))[1::2]]
        return {info.name: info for info in infos}

    async def depth(self) -> dict[str, int]:
        """How many jobs wait, by variant."""
        fleet = await self._run("fleet")
        return {VariantInfo.model_validate_json(i).name: int(n) for i, n in zip(fleet[1::2], fleet[2::2], strict=True)}

    # The worker's side -----------------------------------------------------------------------------------------

    async def register(self, worker: str, variants: Iterable[VariantInfo], ttl_s: float) -> None:
        """Say that the worker lives and what it serves; it counts as alive for `ttl_s` seconds, 0: it leaves."""
        known = [text for info in variants for text in (info.name, info.model_dump_json())]
        await self._run("register", worker, ttl_s, self.variants_known_s, *known)

    async def lease(self, variants: Iterable[str], worker: str, count: int) -> list[Leased]:
        """Take up to `count` jobs from the line; the worker holds each as long as it renews its lease."""
        answer = await self._run("lease", uuid4().hex, worker, self.lease_s, count, *variants)
        return [
            Leased(
                job=Job.model_validate_json(job), attempt=int(attempt), waited_s=float(waited), suspect=bool(suspect)
            )
            for job, attempt, waited, suspect in answer
        ]

    async def arrival(self, after: str) -> str:
        """Wait about two seconds for a job to get in line after `after`, and return where to wait from next."""
        entries = await self._read("arrivals", after, block_ms=BLOCK_MS)
        return entries[-1][0] if entries else after

    async def renew(self, held: Mapping[str, int]) -> set[str]:
        """Renew the leases of the attempts given by job id, and return the ids that are held still."""
        pairs = [value for pair in held.items() for value in pair]
        return set(await self._run("renew", self.lease_s, *pairs))

    async def progress(self, job_id: str, attempt: int, done: int, total: int) -> bool:
        """Tell how many tiles are done; False when this attempt holds the job no more (as all below)."""
        return bool(await self._run("progress", job_id, attempt, done, total))

    async def finish(self, job_id: str, attempt: int, result: Result) -> bool:
        """The job has succeeded."""
        return bool(await self._run("finish", job_id, attempt, result.model_dump_json(), self.result_ttl_s))

    async def fail(self, job_id: str, attempt: int, problem: Problem, *, retry: bool) -> bool:
        """The attempt has failed; with `retry` the job goes back in line as long as attempts are left."""
        allowed = self.max_attempts if retry else 0
        return bool(await self._run("fail", job_id, attempt, problem.model_dump_json(), self.result_ttl_s, allowed))

    async def release(self, job_id: str, attempt: int) -> bool:
        """Give the job back untouched, to its old place in line; the attempt does not count."""
        return bool(await self._run("release", job_id, attempt))

    async def reclaim(self) -> int:
        """Put the jobs of silent workers back in line (or fail those out of attempts); return how many.

        Jobs that wait for a variant that has long been unknown are failed.
        """
        problem = ProcessingFailed(
            f"The worker died or fell silent on this image, {self.max_attempts} times in a row.",
            "Try another file or a smaller scale; the operator finds the cause in the workers' logs.",
        ).problem()
        forgotten = Unavailable(
            "The job's model is served no more: no worker that has it came back in time.",
            "Name another model; GET /v1/models lists them.",
        ).problem()
        problems = problem.model_dump_json(), self.variants_known_s, forgotten.model_dump_json()
        return int(await self._run("reclaim", self.result_ttl_s, self.max_attempts, *problems))

    # ------------------------------------------------------------------------------------------------------------

    async def _run(self, script: str, *args: str | float) -> Any:
        if script not in self._scripts:
            self._scripts[script] = self._redis.register_script(_source(script))
        try:
            return await self._scripts[script](keys=[self._prefix], args=args)
        except RedisError as error:
            raise _unavailable(error) from error

    async def _read(self, stream: str, after: str, block_ms: int | None) -> list[tuple[str, dict[str, str]]]:
        try:
            answer: Any = await self._waiters.xread({self._prefix + stream: after}, block=block_ms)
        except RedisError as error:
            raise _unavailable(error) from error
        return answer[0][1] if answer else []


async def _patiently(call: Callable[[], Awaitable[T]]) -> T:
    give_up = time.monotonic() + OUTAGE_S
    while True:
        try:
            return await call()
        except Unavailable:
            if time.monotonic() > give_up:
                raise
            await asyncio.sleep(OUTAGE_PAUSE_S)


def _unavailable(error: RedisError) -> Unavailable:
    return Unavailable(f"The queue does not answer ({type(error).__name__}).")


def _status(pairs: list[str], position: int) -> JobStatus:
    told = dict(zip(pairs[::2], pairs[1::2], strict=True))
    return JobStatus(
        job=Job.model_validate_json(told["job"]),
        state=JobState(told["state"]),
        position=position if position >= 0 else None,
        attempt=int(told["attempt"]),
        worker=told.get("worker", ""),
        tiles_done=int(told["tiles_done"]),
        tiles_total=int(told["tiles_total"]),
        created_at=float(told["created_at"]),
        started_at=float(told["started_at"]) if "started_at" in told else None,
        finished_at=float(told["finished_at"]) if "finished_at" in told else None,
        result=Result.model_validate_json(told["result"]) if "result" in told else None,
        error=Problem.model_validate_json(told["error"]) if "error" in told else None,
    )
