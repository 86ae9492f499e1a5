"""Files whose job is no more."""

import asyncio

from service.queue.blobs import BlobStore
from service.queue.queue import Queue


async def sweep(blobs: BlobStore, queue: Queue, older_than_s: float) -> int:
    """Remove the files of jobs that are known no more, and return how many jobs that were.

    Young files stay in any case: a file is stored before its job is submitted.
    """
    old = await asyncio.to_thread(blobs.jobs, older_than_s)
    orphans = old - await queue.exists(old)
    for job_id in orphans:
        await asyncio.to_thread(blobs.delete, job_id)
    return len(orphans)
