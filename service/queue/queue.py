"""The queue of jobs, on Redis or Valkey: every change of a job's state is one atomic script.

An accepted job reaches exactly one final state whatever happens to a worker. A worker holds a job by a lease
that it renews; a lease that runs out puts the job back in line. Each delivery has its own number (`attempt`),
and only the attempt that holds the job can change it, so a worker that was away too long can do no harm.
Every script may run twice with the same arguments: the client library repeats a call whose answer was lost.
"""

from types import TracebackType
from typing import Self

from service.queue.embedded import socket_url
from service.queue.operators import OperatorSide
from service.queue.workers import WorkerSide
from service.settings import Settings


class Queue(OperatorSide, WorkerSide):
    """Jobs in line, jobs in workers' hands, jobs done: the one source of truth between the processes."""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The queue these settings speak of: `REDIS_URL`, or the embedded server of the state folder."""
        return cls(
            settings.redis_url or socket_url(settings.state_dir),
            namespace=settings.namespace,
            lease_s=settings.lease_s,
            max_attempts=settings.max_attempts,
            result_ttl_s=settings.result_ttl_s,
            dead_ttl_s=settings.dead_ttl_s,
            attend_s=settings.attend_s,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
