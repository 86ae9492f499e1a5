"""Where every image byte lies: one store behind an fsspec URL (a folder, a shared volume, S3).

A job's files live in a folder of its own, `ID/input` and `ID/result-ATTEMPT`; keys are made here and nowhere
else, so no client can name one.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import fsspec

from service.errors import JobNotFound, Unavailable


def input_key(job_id: str) -> str:
    """Where a job's file lies as it was uploaded."""
    return f"{job_id}/input"


def result_key(job_id: str, attempt: int) -> str:
    """Where an attempt puts its result: a worker that comes too late overwrites nothing."""
    return f"{job_id}/result-{attempt}"


class BlobStore:
    """Bytes by key. Calls block; from an event loop, make them in a thread.

    All raise OSError while the store is out of order. Raises Unavailable for a URL that no library here knows.
    """

    def __init__(self, url: str) -> None:
        try:
            # Without its cache of listings: what other processes store and remove is seen at once.
            self._fs, root = fsspec.url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise Unavailable(
                f"OMGSR_BLOB_URL cannot be used: {error}.", "For S3: pip install 'omgsr-serve[s3]'."
            ) from None
        self._root = str(root).rstrip("/")
        self._local = "file" in (self._fs.protocol if isinstance(self._fs.protocol, tuple) else [self._fs.protocol])

    def put(self, key: str, data: bytes) -> None:
        """Store the bytes: whoever reads the key finds all of them or none."""
        path = self._path(key)
        if not self._local:  # object stores show an object when it is complete
            with _faults_as_os_errors():
                self._fs.pipe_file(path, data)
            return
        self._fs.makedirs(self._fs._parent(path), exist_ok=True)
        unfinished = f"{path}.{uuid4().hex}.part"
        try:
            self._fs.pipe_file(unfinished, data)
            self._fs.mv(unfinished, path)
        except BaseException:
            if self._fs.exists(unfinished):
                self._fs.rm_file(unfinished)
            raise

    def get(self, key: str) -> bytes:
        """The bytes, or JobNotFound when they are there no more."""
        return self._read(key)

    def read(self, key: str, start: int, end: int) -> bytes:
        """The bytes from `start` to `end`, or JobNotFound when they are there no more."""
        return self._read(key, start=start, end=end)

    def delete(self, job_id: str) -> None:
        """Remove all files of a job; none there, or removed by another meanwhile, is no error."""
        with suppress(FileNotFoundError), _faults_as_os_errors():
            self._fs.rm(self._path(job_id), recursive=True)

    def jobs(self, older_than_s: float) -> set[str]:
        """The ids of the jobs that have files here, none of them newer than so many seconds."""
        before = datetime.now(UTC) - timedelta(seconds=older_than_s)
        old: set[str] = set()
        young: set[str] = set()
        with _faults_as_os_errors():
            for path, told in self._fs.find(self._root, detail=True).items():
                job_id = path.removeprefix(self._root).lstrip("/").partition("/")[0]
                with suppress(FileNotFoundError):  # removed meanwhile
                    (old if self._modified(path, told) < before else young).add(job_id)
        return old - young

    def _read(self, key: str, **part: int) -> bytes:
        try:
            with _faults_as_os_errors():
                return bytes(self._fs.cat_file(self._path(key), **part))
        except FileNotFoundError:
            raise JobNotFound(f"The file {key} is kept no more.") from None

    def _modified(self, path: str, told: Mapping[str, Any]) -> datetime:
        """As the listing tells it, in the store's own words: to ask for each file costs a request each."""
        when = told.get("LastModified") or told.get("mtime") or self._fs.modified(path)
        return when if isinstance(when, datetime) else datetime.fromtimestamp(when, UTC)

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"


@contextmanager
def _faults_as_os_errors() -> Iterator[None]:
    """A distant store's library has errors of its own, for no route or no credentials; callers know OSError."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"The blob store is out of order: {error}") from error
