"""The queue as an operator sees it: what is under way, dead letters, and files that may go."""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from uuid import uuid4

from service.errors import JobNotFound, Unavailable
from service.job import JobStatus
from service.queue.blobs import BlobStore, input_key
from service.queue.clients import ClientSide
from service.queue.fleet import Memory


class OperatorSide(ClientSide):
    """All jobs, and those that were given up."""

    async def active(self) -> list[JobStatus]:
        """The jobs that run, then those that wait, as the workers will take them."""
        return await self._known(await self._run("active"))

    async def dead_letters(self) -> list[JobStatus]:
        """The jobs that were given up, the oldest first: out of deliveries, or failed by the service's own fault."""
        return await self._known(await self._run("letters"))

    async def replay(self, job_id: str, blobs: BlobStore) -> str:
        """Put a dead letter in line again and return its new id; the letter is gone.

        The new job has its own copy of the file; no idempotency key, deadline or asker binds it. Raises JobNotFound,
        and Unavailable for one that this release cannot read.
        """
        status = await self.letter(job_id)
        if not status.readable:
            raise Unavailable(
                f"The dead letter {job_id} was written by a newer release.", "Replay it with that release's `omgsr`."
            )
        letter = status.job
        new_id = uuid4().hex
        job = letter.model_copy(
            update={
                "id": new_id,
                "input_key": input_key(new_id),
                "options": letter.options.model_copy(update={"deadline_s": None}),
                "idempotency_key": "",
                "attended": False,
            }
        )
        await asyncio.to_thread(lambda: blobs.put(job.input_key, blobs.get(letter.input_key)))
        if not await self._run("replay", job_id, job.model_dump_json()):  # another was quicker
            await asyncio.to_thread(blobs.delete, new_id)
            raise _no_letter(job_id)
        return new_id

    async def bury(self, job_id: str) -> None:
        """Remove a dead letter for good; its files go with the next sweep. Raises JobNotFound."""
        await self.letter(job_id)
        await self._run("bury", job_id)

    async def letter(self, job_id: str) -> JobStatus:
        """The dead letter of that id. Raises JobNotFound."""
        if job_id not in await self._run("letters"):
            raise _no_letter(job_id)
        return await self.status(job_id)

    async def memory(self) -> Memory | None:
        """What the server holds in memory; None when it does not tell this user (`INFO` is not allowed to it)."""
        return Memory.of(await self._run("memory"))

    async def expired(self, count: int) -> list[str]:
        """Up to `count` ids of jobs whose files may go, the longest overdue first."""
        return list(await self._run("expired", count))

    async def forget(self, job_ids: Iterable[str]) -> None:
        """The files of these expired jobs are gone."""
        await self._run("forget", *job_ids)

    async def may_list_files(self, every_s: float) -> bool:
        """Whether it is time to look through the whole store. True is said once in `every_s`, to one who asks."""
        return bool(await self._run("list_files", every_s))

    async def _known(self, job_ids: Iterable[str]) -> list[JobStatus]:
        found = []
        for job_id in job_ids:
            with suppress(JobNotFound):
                found.append(await self.status(job_id))
        return found


def _no_letter(job_id: str) -> JobNotFound:
    return JobNotFound(f"There is no dead letter {job_id}.", "`omgsr jobs dead` lists them.")
