"""When a client tries again, and when it gives up."""

import asyncio
import random
import ssl
import time
from collections.abc import Callable

import httpx

from service.errors import RequestFailed, ServiceError, Unavailable

RETRIED = {429, 502, 503}
"""HTTP statuses of a request that was not taken, and may be taken later."""

FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 15.0

Failure = RequestFailed | httpx.RequestError


class Patience:
    """The tries at one thing, asked of the server at `url`.

    `on_wait` is told what went wrong and the seconds until the next try.
    """

    def __init__(self, url: str, total_s: float, on_wait: Callable[[ServiceError, float], None] | None = None) -> None:
        self._url, self._total_s, self._on_wait = url, total_s, on_wait
        self.renew()

    def renew(self) -> None:
        """Something was achieved: what fails from now on is a new trouble."""
        self._give_up = time.monotonic() + self._total_s
        self._next_s = FIRST_WAIT_S

    async def after(self, failure: Failure) -> None:
        """Wait until the next try, as long as the server asked for, or raise the failure in words."""
        told = self._told(failure)
        wait_s = self._wait_s(told)
        if _lasting(failure) or time.monotonic() + wait_s > self._give_up:
            raise told from failure
        if self._on_wait is not None:
            self._on_wait(told, wait_s)
        await asyncio.sleep(wait_s)

    def _wait_s(self, told: ServiceError) -> float:
        if told.retry_after_s is not None:  # never earlier than asked, and not all at the same moment
            return told.retry_after_s * random.uniform(1.0, 1.2)
        wait_s = self._next_s * random.uniform(0.5, 1.0)
        self._next_s = min(2 * self._next_s, LONGEST_WAIT_S)
        return wait_s

    def _told(self, failure: Failure) -> ServiceError:
        if isinstance(failure, RequestFailed):
            return failure
        return Unavailable(
            f"The server at {self._url} does not answer: {str(failure) or type(failure).__name__}.",
            "Check the address, and that the service runs there.",
        )


def _lasting(failure: Failure) -> bool:
    """Whether trying again cannot help."""
    if isinstance(failure, RequestFailed):
        return failure.found.status not in RETRIED
    link: BaseException | None = failure
    while link is not None:
        if isinstance(link, ssl.SSLCertVerificationError):
            return True
        link = link.__cause__ or link.__context__
    return isinstance(failure, httpx.UnsupportedProtocol | httpx.LocalProtocolError)
