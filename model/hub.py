"""Files from a model hub: which there are, what they hash to, and a download that goes on where it stopped.

`huggingface_hub` speaks to the hub. Its own downloads (2.4) begin anew in each process, and compare lengths only; so a
file is kept here under a name with its hash until it is whole, and the hash is checked. Xet is not used. Free of torch.
"""

import io
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import disk_usage
from typing import Any, Self

import httpx2
from huggingface_hub import HfApi, get_token, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.utils.tqdm import silent_tqdm
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from model.console import stderr
from model.errors import ModelFilesError
from model.released import LICENCES, Licence, same_model
from model.sums import git_sha1, sha256

AGENT = "omgsr-serve"
PUBLIC = "https://huggingface.co"
MAIN = "main"


@dataclass(frozen=True)
class Repository:
    """A repository of the hub at a revision."""

    id: str
    revision: str = MAIN

    @classmethod
    def parse(cls, text: str) -> Self:
        """OWNER/NAME, or OWNER/NAME@REVISION. Raises ModelFilesError for anything else."""
        if not re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", text):
            raise ModelFilesError(f"{text!r} is neither a folder nor a repository OWNER/NAME of the hub")
        name, _, revision = text.partition("@")
        return cls(name, revision or MAIN)


@dataclass(frozen=True)
class RemoteFile:
    """A file as the hub tells it."""

    path: str
    size: int
    digest: str
    """Sha256 where the hub keeps it outside git, git's sha1 where it is small."""

    def is_at(self, place: Path) -> bool:
        """Whether `place` holds exactly this file."""
        if not place.is_file() or place.stat().st_size != self.size:
            return False
        return (sha256 if len(self.digest) == 64 else git_sha1)(place) == self.digest


@dataclass(frozen=True)
class Listing:
    """What a repository holds at one commit."""

    repository: str
    commit: str
    files: Mapping[str, RemoteFile]
    licence: Licence


@dataclass(frozen=True)
class Hub:
    """The hub at `endpoint`; a token is taken from HF_TOKEN, or from `hf auth login`."""

    endpoint: str = PUBLIC

    def list_files(self, repository: Repository) -> Listing:
        """What is there, and under which licence. Raises ModelFilesError where it cannot be had."""
        with self._explained(repository.id):
            api = HfApi(endpoint=self.endpoint, library_name=AGENT)
            info = api.model_info(repository.id, revision=repository.revision, files_metadata=True)
        files = {
            one.rfilename: RemoteFile(one.rfilename, one.size or 0, one.lfs.sha256 if one.lfs else one.blob_id or "")
            for one in info.siblings or ()
        }
        card: dict[str, Any] = info.card_data.to_dict() if info.card_data else {}  # type: ignore[no-untyped-call]
        return Listing(repository.id, info.sha or repository.revision, files, self._licence(repository.id, card))

    def fetch(self, listing: Listing, wanted: Mapping[str, str], folder: Path) -> None:
        """Bring files into `folder`: `wanted` says which path of the repository becomes which path there.

        What is there whole is left. Raises ModelFilesError where a file cannot be had or has another hash than the
        hub tells; what came of the others is kept, and the next call goes on from there.
        """
        todo = [(listing.files[path], folder / name) for path, name in sorted(wanted.items())]
        todo = [(file, place) for file, place in todo if not file.is_at(place)]
        nameless = [file.path for file, _ in todo if not file.digest]
        if nameless:
            raise ModelFilesError(f"{self.endpoint} does not tell the hash of {nameless[0]}: use another endpoint")
        _require_room(folder, sum(file.size - _length(_partial(file, place)) for file, place in todo))
        with transfer(sum(file.size for file, _ in todo)) as advance, self._explained(listing.repository):
            for file, place in todo:
                self._fetch_one(listing, file, place, advance)

    def _fetch_one(self, listing: Listing, file: RemoteFile, place: Path, advance: Callable[[str, int], None]) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = _partial(file, place)
        url = hf_hub_url(listing.repository, file.path, revision=listing.commit, endpoint=self.endpoint)
        token = get_token()
        headers = {"user-agent": AGENT} | ({"authorization": f"Bearer {token}"} if token else {})
        download(url, partial, headers, size=file.size, advance=lambda count: advance(file.path, count))
        if not file.is_at(partial):
            partial.unlink()
            raise ModelFilesError(
                f"{file.path} of {listing.repository} came with another hash than {self.endpoint} tells, and was "
                "thrown away: try again; if it stays so, the hub or something on the way to it changes files"
            )
        partial.replace(place)

    def _licence(self, repository: str, card: Mapping[str, Any]) -> Licence:
        """The one that this project knows, for mirrors too; else what the repository's own card says."""
        known = next((licence for base, licence in LICENCES.items() if same_model(base, repository)), None)
        name = card.get("license_name") or card.get("license") or "not stated"
        page = f"{self.endpoint}/{repository}"
        return known or Licence(str(name), "as its owner states there", str(card.get("license_link") or page))

    @contextmanager
    def _explained(self, repository: str) -> Iterator[None]:
        page = f"{self.endpoint}/{repository}"
        try:
            yield
        except GatedRepoError as error:
            raise ModelFilesError(
                f"{repository} is gated: its owner gives access to those who ask.\n"
                f"1. Log in at {page} and accept its terms.\n"
                f"2. Make a token that may read gated repositories: {self.endpoint}/settings/tokens.\n"
                "3. Set HF_TOKEN to it, and repeat the command; what was fetched is kept."
            ) from error
        except RepositoryNotFoundError as error:
            raise ModelFilesError(
                f"{self.endpoint} has no repository {repository}, or keeps it private: check the name, or set "
                "HF_TOKEN. A base that has moved is named with --base: another repository, or a folder"
            ) from error
        except RevisionNotFoundError as error:
            raise ModelFilesError(f"{repository} has no such revision: see {page}") from error
        except HFValidationError as error:
            raise ModelFilesError(f"{repository!r} is no repository's name: {error}") from error
        except (httpx2.HTTPError, OSError) as error:
            raise ModelFilesError(_trouble(self.endpoint, error)) from error


def download(
    url: str,
    place: Path,
    headers: dict[str, str],
    *,
    size: int | None = None,
    limit: int | None = None,
    advance: Callable[[int], None],
) -> None:
    """Append to `place` what is missing of the file at `url`.

    `size`: bytes of the whole, if known. More than `limit` bytes are refused with ModelFilesError; other troubles are
    those of httpx2, and OSError.
    """
    if size is not None and _length(place) > size:
        place.unlink()
    with _Counted(place, advance, limit) as file:
        advance(file.tell())
        http_get(url, file, resume_size=file.tell(), headers=headers, expected_size=size, tqdm_class=silent_tqdm)


@contextmanager
def transfer(total: int | None) -> Iterator[Callable[[str, int], None]]:
    """A bar on the terminal; call what it gives with the name of the file at hand and the bytes that came."""
    columns = DownloadColumn(), TransferSpeedColumn(), TextColumn("left"), TimeRemainingColumn()
    with Progress(TextColumn("{task.description}"), BarColumn(), *columns, console=stderr) as progress:
        task = progress.add_task("", total=total, visible=total != 0)
        yield lambda name, count: progress.update(task, advance=count, description=name.rpartition("/")[2])


def _trouble(where: str, error: Exception) -> str:
    if isinstance(error, HfHubHTTPError):
        said = f"{where} answers {error.response.status_code}"
        if error.response.status_code in {401, 403}:
            said += ": the token (HF_TOKEN) is not valid, or may not read this"
    else:
        said = f"{where}: {str(error) or type(error).__name__}"
    return f"{said}. What was fetched is kept: repeat the command, and it goes on from there"


class _Counted(io.BufferedWriter):
    """A file that is appended to, and tells how much; it refuses to grow beyond a limit."""

    def __init__(self, place: Path, advance: Callable[[int], None], limit: int | None) -> None:
        super().__init__(io.FileIO(place, "ab"))
        self._advance, self._limit = advance, limit

    def write(self, data: Any) -> int:
        if self._limit is not None and self.tell() + len(data) > self._limit:
            raise ModelFilesError(f"the file is larger than {self._limit / 1e9:.0f} GB, and was not fetched further")
        self._advance(len(data))
        return super().write(data)


def _partial(file: RemoteFile, place: Path) -> Path:
    return place.with_name(f"{place.name}.{file.digest[:16]}.partial")


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _require_room(folder: Path, needed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = disk_usage(folder).free
    if needed > free:
        raise ModelFilesError(
            f"{folder} has {free / 1e9:.1f} GB of room, and {needed / 1e9:.1f} GB are to come: make room"
        )
