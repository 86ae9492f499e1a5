"""The file of API keys: their digests, and what each may do. `omgsr keys` writes it, the API reads it."""

import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from pydantic import Field, TypeAdapter, ValidationError

from service.errors import ServiceError
from service.job import Message

HIGHEST_PRIORITY = 10
PREFIX = "omgsr_"
"""By it a key that lies where it should not is found."""


class KeysUnreadable(ServiceError):
    """The file of API keys is missing or broken."""

    title = "API keys unreadable"
    advice = "Correct the file that OMGSR_API_KEYS names, or make it with `omgsr keys new NAME`."


class ApiKey(Message):
    """One key of the file. Keys of one name are one client: a new key beside the old one rotates it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$", description="the client's")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="digest of the key; the key itself is kept nowhere")
    weight: float = Field(1.0, gt=0, le=1000, description="the client's share of a busy service")
    per_minute: int | None = Field(None, ge=1, description="jobs that it may submit in a minute; null: any number")
    max_active: int | None = Field(None, ge=1, description="jobs that may wait and run at once; null: any number")
    max_priority: int = Field(0, ge=-10, le=HIGHEST_PRIORITY, description="the highest that it may ask for")
    created: str = Field(description="ISO 8601")

    @classmethod
    def made(
        cls, name: str, *, weight: float, per_minute: int | None, max_active: int | None, max_priority: int
    ) -> tuple[Self, str]:
        """A new key's record, and the key: 256 random bits."""
        key = PREFIX + secrets.token_urlsafe(32)
        record = cls(
            name=name,
            sha256=digest_of(key),
            weight=weight,
            per_minute=per_minute,
            max_active=max_active,
            max_priority=max_priority,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        return record, key


_list = TypeAdapter(list[ApiKey])


def digest_of(key: str) -> str:
    """What is kept of a key. Nobody can try 256 random bits out, so a slow hash would only cost time."""
    return hashlib.sha256(key.encode()).hexdigest()


def read_keys(path: Path) -> list[ApiKey]:
    """The keys of a file. Raises KeysUnreadable."""
    try:
        return _list.validate_json(path.read_bytes())
    except OSError as error:
        raise KeysUnreadable(f"The file of API keys {path} cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))
        raise KeysUnreadable(f"The file of API keys {path} is broken: {said}.") from None


@contextmanager
def changed_keys(path: Path) -> Iterator[list[ApiKey]]:
    """The file's keys to be changed in the block; then the file appears whole, and for its owner's eyes alone.

    One at a time. Raises KeysUnreadable.
    """
    path = path.resolve()
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise KeysUnreadable(f"The folder {path.parent} cannot be opened: {error.strerror}.") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        keys = read_keys(path) if path.exists() else []
        yield keys
        _replace(path, _list.dump_json(keys, indent=1))
        os.fsync(folder)
    finally:
        os.close(folder)


def _replace(path: Path, data: bytes) -> None:
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise KeysUnreadable(f"The file of API keys {path} cannot be written: {error.strerror}.") from error
