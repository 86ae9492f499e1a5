"""Who asks, and what they may: API keys, known by their digests alone."""

import hmac
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import structlog

from service.api.keyfile import HIGHEST_PRIORITY, ApiKey, KeysUnreadable, digest_of, read_keys
from service.errors import JobNotFound, Unauthenticated
from service.job import Job
from service.queue.limits import Limits
from service.settings import Settings

_BEARER = re.compile(r"bearer +(\S+)", re.IGNORECASE)
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Caller:
    """The client behind a request."""

    name: str
    limits: Limits = field(default_factory=Limits)
    weight: float = 1.0
    max_priority: int = HIGHEST_PRIORITY
    secluded: bool = False
    """Whether it sees its own jobs alone, as where there are keys."""

    def check_sees(self, job: Job) -> None:
        """Raise JobNotFound for another client's job: that there is one is nobody else's business."""
        if self.secluded and job.client != self.name:
            raise JobNotFound(f"There is no job {job.id}.")


class Keys:
    """Tells callers by their keys. The file is read again whenever it has changed; a broken one changes nothing."""

    def __init__(self, path: Path | None, limits: Limits) -> None:
        self._path = path
        self._limits = limits
        self._seen = self._stamp()
        self._keys = read_keys(path) if path else []

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The keys these settings speak of. Raises KeysUnreadable."""
        limits = Limits(
            max_waiting=settings.max_waiting,
            max_client_waiting=settings.max_client_waiting,
            max_stored_bytes=settings.max_stored_bytes,
        )
        return cls(settings.api_keys, limits)

    def caller(self, authorization: str, peer: str) -> Caller:
        """Who sent the header `Authorization: Bearer KEY`; where no keys are asked for, whoever is at that address.

        Raises Unauthenticated.
        """
        if self._path is None:
            return Caller(peer, self._limits)
        self._refresh(self._path)
        if not authorization:
            raise Unauthenticated("The request carries no API key.")
        given = _BEARER.fullmatch(authorization.strip())
        if given is None:
            raise Unauthenticated("The header `Authorization` is not of the form `Bearer KEY`.")
        digest = digest_of(given[1])
        found = [key for key in self._keys if hmac.compare_digest(key.sha256, digest)]
        if not found:
            raise Unauthenticated("The API key is not known here, or has been revoked.")
        return self._caller(found[0])

    def _caller(self, key: ApiKey) -> Caller:
        limits = replace(self._limits, max_active=key.max_active, per_minute=key.per_minute)
        return Caller(key.name, limits, key.weight, key.max_priority, secluded=True)

    def _refresh(self, path: Path) -> None:
        if (stamp := self._stamp()) == self._seen:
            return
        self._seen = stamp
        try:
            self._keys = read_keys(path)
        except KeysUnreadable as error:
            _log.error("the keys of before stay valid", problem=error.detail)
        else:
            _log.info("API keys read", count=len(self._keys))

    def _stamp(self) -> tuple[int, ...]:
        try:
            stat = self._path.stat() if self._path else None
        except OSError:
            return ()
        return (stat.st_mtime_ns, stat.st_size, stat.st_ino) if stat else ()
