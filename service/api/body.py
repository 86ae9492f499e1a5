"""The uploaded file and the options out of an HTTP request; what is over the limit is never kept."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import suppress
from dataclasses import dataclass

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from service.errors import BadRequest, TooManyBytes, UploadStalled, WrongContentType

MAX_FIELDS = 16
MAX_FIELD_BYTES = 1024
MULTIPART_OVERHEAD = 64 * 1024
"""Boundaries, part headers and option fields around the file."""

DISCARD_S = 5.0

SLOWEST = 16 * 1024
"""Bytes per second, on average, of an upload that takes long: a slower one would keep its place from others."""


@dataclass(frozen=True)
class Upload:
    """What a client sent."""

    data: bytes
    filename: str
    fields: list[tuple[str, str]]
    """Options from the query and the form, as they came."""


async def read_upload(request: Request, max_bytes: int, patience_s: float) -> Upload:
    """The file from the multipart field `image`, or the body itself when its type is an image's.

    Raises BadRequest, WrongContentType, TooManyBytes and, for one that is `SLOWEST` after `patience_s`, UploadStalled.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _multipart(request, max_bytes, patience_s)
    if not (kind.startswith("image/") or kind == "application/octet-stream"):
        raise WrongContentType(f"The request's Content-Type is {kind or 'missing'!r}.")
    data = b"".join([chunk async for chunk in _limited(request, max_bytes, max_bytes, patience_s)])
    return _checked(data, "", request.query_params.multi_items(), max_bytes)


async def _multipart(request: Request, max_bytes: int, patience_s: float) -> Upload:
    stream = _limited(request, max_bytes + MULTIPART_OVERHEAD, max_bytes, patience_s)
    parser = MultiPartParser(request.headers, stream, max_files=1, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise BadRequest(
            f"The multipart form cannot be read: {error.message}.",
            f"Send one file in the field `image` and at most {MAX_FIELDS} short option fields.",
        ) from error
    try:
        image = form.get("image")
        if not isinstance(image, UploadFile):
            raise BadRequest("The form has no file in the field `image`.", "Send it as curl does: -F image=@photo.jpg")
        data = await image.read(max_bytes + 1)
    finally:
        await form.close()
    fields = [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
    return _checked(data, image.filename or "", [*request.query_params.multi_items(), *fields], max_bytes)


def _checked(data: bytes, filename: str, fields: Iterable[tuple[str, str]], max_bytes: int) -> Upload:
    if not data:
        raise BadRequest("The file is empty.", "Send the image's bytes.")
    if len(data) > max_bytes:
        raise _too_many(max_bytes)
    return Upload(data, _plain_name(filename), list(fields))


def _plain_name(filename: str) -> str:
    """The name without folders and without what no file name holds."""
    name = filename.replace("\\", "/").rpartition("/")[2]
    return "".join(c for c in name if c.isprintable())[:200]


async def _limited(request: Request, most: int, max_bytes: int, patience_s: float) -> AsyncGenerator[bytes, None]:
    """The body's chunks up to `most` bytes; a body that says it is larger is refused before it is read."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most:
        await discard(request, max_bytes)
        raise _too_many(max_bytes)
    received, body, began = 0, request.stream(), time.monotonic()
    while (chunk := await _next(body, began + patience_s + received / SLOWEST - time.monotonic())) is not None:
        received += len(chunk)
        if received > most:
            await discard(request, max_bytes, body)
            raise _too_many(max_bytes)
        yield chunk


async def _next(body: AsyncIterator[bytes], within_s: float) -> bytes | None:
    try:
        async with asyncio.timeout(within_s):
            return await anext(body, None)
    except TimeoutError:
        raise UploadStalled(f"The upload brings less than {SLOWEST // 1024} KiB a second.") from None


async def discard(request: Request, most: int, body: AsyncIterator[bytes] | None = None) -> None:
    """Let a client that is sending already come to its end, or it would meet a reset before it reads the answer.

    One that asked first (`Expect: 100-continue`, as curl does) has sent nothing yet. Nothing is kept. `body` is what
    was begun to be read: a body that has come to its end cannot be begun again.
    """
    if request.headers.get("expect", "").lower() == "100-continue":
        return
    with suppress(ClientDisconnect, TimeoutError):
        async with asyncio.timeout(DISCARD_S):
            async for chunk in body or request.stream():
                most -= len(chunk)
                if most < 0:
                    return


def _too_many(max_bytes: int) -> TooManyBytes:
    return TooManyBytes(f"The file has more than the {max_bytes:,} bytes that this server takes.")
