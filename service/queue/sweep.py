"""Files whose time is over."""

import asyncio
from collections.abc import Iterable

from service.queue.blobs import BlobStore
from service.queue.queue import Queue

AT_ONCE = 100
ORPHANS_EVERY_S = 3600.0


async def sweep(blobs: BlobStore, queue: Queue, older_than_s: float, orphans_every_s: float = ORPHANS_EVERY_S) -> int:
    """Remove the files of jobs that have expired, and return how many jobs that were.

    Any number may sweep at once, as often as they like: the queue knows what has expired. Files that it knows nothing
    of (their job was refused, or their worker came too late) are found by listing the store, which one of all sweepers
    does every `orphans_every_s` seconds; those younger than `older_than_s` stay, for a file is stored before its job
    is submitted. Raises OSError when the store is out of order; the next sweep removes what this one left.
    """
    count = 0
    while expired := await queue.expired(AT_ONCE):
        await _remove(blobs, expired)
        await queue.forget(expired)
        count += len(expired)
    if await queue.may_list_files(orphans_every_s):
        count += await _sweep_orphans(blobs, queue, older_than_s)
    return count


async def _sweep_orphans(blobs: BlobStore, queue: Queue, older_than_s: float) -> int:
    old = sorted(await asyncio.to_thread(blobs.jobs, older_than_s))
    count = 0
    for start in range(0, len(old), AT_ONCE):
        some = old[start : start + AT_ONCE]
        orphans = set(some) - await queue.exists(some)
        await _remove(blobs, orphans)
        count += len(orphans)
    return count


async def _remove(blobs: BlobStore, job_ids: Iterable[str]) -> None:
    for job_id in job_ids:
        await asyncio.to_thread(blobs.delete, job_id)
