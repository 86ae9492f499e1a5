"""What holds for all of a gRPC call: who makes it, its id, its deadline, and how it is refused."""

import asyncio
import re
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Never, Self, cast
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError

from service.api.auth import Caller, Keys
from service.api.messages import status_of
from service.errors import DeadlinePassed, ServiceError
from service.job import UpscaleOptions
from service.telemetry import rejections_counted

REQUEST_ID = "x-request-id"
STATUS_DETAILS = "grpc-status-details-bin"
"""Where gRPC libraries look for a google.rpc.Status."""

DAY_S = 86_400.0
"""A deadline later than this is none."""

SENT_SHARE = 0.99
"""gRPC sends a call's timeout rounded up by as much as 1 %: 20.1 s for 20. No image is to outlive its client's wait."""

DISCARD_S = 1.0
END_S = 0.5

_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True)
class Call:
    """A call that was let in."""

    caller: Caller
    request_id: str
    traceparent: str
    deadline: float | None
    """On this process's monotonic clock; None: the client waits as long as it takes."""

    @classmethod
    def of(cls, context: Context, keys: Keys, request_id: str) -> Self:
        """The call behind a handler's context. Raises Unauthenticated."""
        told = _metadata(context)
        authorization = told.get("authorization") or (f"Bearer {key}" if (key := told.get("x-api-key")) else "")
        with rejections_counted():
            caller = keys.caller(authorization, _address(context.peer()))
        left = cast(float | None, context.time_remaining())
        deadline = None if left is None else time.monotonic() + left * SENT_SHARE
        return cls(caller, request_id, told.get("traceparent", ""), deadline)

    def bounded(self, options: UpscaleOptions) -> UpscaleOptions:
        """The options with a deadline that is no later than the call's own. Raises DeadlinePassed."""
        left = DAY_S if self.deadline is None else self.deadline - time.monotonic()
        if left <= 0:
            raise DeadlinePassed("The call's deadline came before the image was in line.")
        if left >= DAY_S:
            return options
        return options.model_copy(update={"deadline_s": min(left, options.deadline_s or left)})


def request_id_of(context: Context) -> str:
    """The client's own name for the call, if it is a sane one, or a new one."""
    given = _metadata(context).get(REQUEST_ID, "")
    return given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex


async def refuse(context: Context, error: ServiceError, request_id: str) -> Never:
    """End the call with the error, and with its details where gRPC libraries look for them."""
    status = status_of(error.problem())
    details = (REQUEST_ID, request_id), (STATUS_DETAILS, status.SerializeToString())
    code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    await context.abort(code, status.message, details)


async def discard(context: Context) -> None:
    """Let a client that is sending already come to its end: Python's would tell its own failure, not our answer."""
    with suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_S):
            while True:
                with suppress(DecodeError):
                    if await context.read() is grpc.aio.EOF:
                        return


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel the tasks until they have ended: one cancellation may be lost inside a library."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=END_S)


def _metadata(context: Context) -> dict[str, str]:
    return {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}


def _address(peer: str) -> str:
    """`ipv4:127.0.0.1:54321` and `ipv6:%5B::1%5D:54321` without kind and port."""
    kind, _, rest = unquote(peer).partition(":")
    return rest.rpartition(":")[0].strip("[]") or kind
