"""A finished job's image on its way out, a piece at a time: a slow reader holds one piece in memory, not the whole."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import PurePath

from service.errors import ProcessingFailed, Unavailable
from service.job import SUFFIXES, Job, Result
from service.queue.blobs import BlobStore

PIECE = 4 * 2**20
"""Bytes: each piece costs a request where the store is a distant one."""


def result_name(job: Job) -> str:
    """A file name for the result that keeps the input's: photo.jpg → photo_4x.png."""
    stem = PurePath(job.filename).stem or "image"
    return f"{stem}_{job.options.scale:g}x{SUFFIXES[job.options.format]}"


async def piece(blobs: BlobStore, found: Result, start: int, end: int) -> bytes:
    """The result's bytes from `start` to `end`. Raises ServiceError when they are there no more."""
    try:
        data = await asyncio.to_thread(blobs.read, found.key, start, end)
    except OSError as error:
        raise Unavailable("The result cannot be read now.") from error
    if len(data) != end - start:
        raise ProcessingFailed("The result is not whole.", "Send the photo again.")
    return data


async def pieces(blobs: BlobStore, found: Result, start: int) -> AsyncIterator[bytes]:
    """The result from `start` to its end."""
    for at in range(start, found.bytes, PIECE):
        yield await piece(blobs, found, at, min(at + PIECE, found.bytes))
