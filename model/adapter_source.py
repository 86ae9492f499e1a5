"""Where adapters come from: a folder, an archive behind a URL, or a repository of the hub; all end as a folder."""

import hashlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import httpx2

from model.adapter import DENOISER_ADAPTER, VAE_ADAPTER, WEIGHTS
from model.archive import KNOWN, MAX_BYTES, unpack
from model.errors import ModelFilesError
from model.hub import AGENT, Hub, Repository, download, transfer
from model.released import AUTHORS, RELEASES, same_model
from model.sums import sha256

CONFIG = "adapter_config.json"
HUB = "hub:"
DEPTHS = ("*/", "*/*/")
"""Where to look below a folder: an archive often wraps what it holds in one or two more."""


@dataclass(frozen=True)
class AdapterSource:
    """`text` as it was given: a folder, http(s)://…[#sha256=…], or hub:OWNER/NAME[@REVISION][:FOLDER]."""

    text: str

    @property
    def is_local(self) -> bool:
        """Whether no network is needed."""
        return not self.text.startswith((HUB, "http://", "https://"))

    def folder(self, family: str, staging: Path, hub: Hub) -> Path:
        """The folder that holds the authors' two adapter folders of `family`; fetched into `staging` if need be.

        Raises ModelFilesError where they cannot be had, and for anything but safetensors.
        """
        if self.is_local:
            if not Path(self.text).is_dir():
                raise ModelFilesError(f"there is no folder {self.text}")
            return adapters_in(Path(self.text), family)
        place = staging / hashlib.sha256(self.text.encode()).hexdigest()[:16]
        if self.text.startswith(HUB):
            _from_hub(self.text.removeprefix(HUB), place, hub)
        else:
            _from_url(self.text, place)
        return adapters_in(place, family)


def adapters_in(folder: Path, family: str) -> Path:
    """The one folder in `folder`, itself included, that holds both adapters of `family` (ModelFilesError if not)."""
    names = VAE_ADAPTER[family], DENOISER_ADAPTER[family]
    levels = [folder, *(path for depth in DEPTHS for path in folder.glob(depth) if path.is_dir())]
    found = [path for path in levels if all((path / name).is_dir() for name in names)]
    if len(found) != 1:
        others = {name for table in (VAE_ADAPTER, DENOISER_ADAPTER) for name in table.values()}
        seen = sorted({name for path in levels for name in others if (path / name).is_dir()})
        several = f"{len(found)} times ({', '.join(map(str, found))}): name one of them" if found else "not at all"
        raise ModelFilesError(
            f"{folder} must hold {' and '.join(names)}, and does so {several}"
            + (f"; it holds {', '.join(seen)}" if seen and not found else "")
        )
    for name in names:
        for file in (CONFIG, WEIGHTS):
            if not (found[0] / name / file).is_file():
                raise ModelFilesError(
                    f"{found[0] / name / file} is missing: adapters are read from safetensors only, never from .bin"
                )
    return found[0]


def check_origin(adapter: Path, base_id: str) -> None:
    """Refuse an adapter whose config names another known base than `base_id` (ModelFilesError); most name none."""
    named = re.search(r'"base_model_name_or_path": "([^"]+)"', (adapter / CONFIG).read_text())
    known = {release.base for release in RELEASES.values() if release.base} | {"stable-diffusion-2-1-base"}
    if named and not same_model(named[1], base_id) and any(same_model(named[1], one) for one in known):
        raise ModelFilesError(
            f"{adapter} says that it was trained on {named[1]}, not on {base_id}: take its own base (--base)"
        )


def no_source(name: str) -> ModelFilesError:
    """What to say where nobody said where the adapters are."""
    return ModelFilesError(
        f"no lasting address of the adapters of {name} is known: their authors publish them in a cloud drive, which "
        f"their page names ({AUTHORS}). Fetch them there with a browser, unpack them, and give --adapters FOLDER; or "
        "--adapters URL of a zip or tar archive, or --adapters hub:OWNER/NAME of your own copy"
    )


def shown(source: str) -> str:
    """The source without what may be secret in an address: its user, its query."""
    if not source.startswith(("http://", "https://")):
        return source
    parts = urlsplit(source)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _reason(error: Exception) -> str:
    """In a word: the error's own words name the whole address."""
    answer = getattr(error, "response", None)
    return type(error).__name__ if answer is None else f"status {answer.status_code}"


def _from_hub(text: str, place: Path, hub: Hub) -> None:
    name, _, folder = text.partition(":")
    listing = hub.list_files(Repository.parse(name))
    inside = f"{folder.strip('/')}/" if folder else ""
    adapters = {*VAE_ADAPTER.values(), *DENOISER_ADAPTER.values()}
    wanted = {}
    for path in listing.files:
        if path.startswith("/") or ".." in PurePosixPath(path).parts:
            raise ModelFilesError(f"{text} lists {path!r}, a path that leads out of its folder: do not trust it")
        parents, _, file = path.removeprefix(inside).rpartition("/")
        ours = parents.rpartition("/")[2] in adapters or not parents
        if path.startswith(inside) and file in KNOWN and ours:
            wanted[path] = path.removeprefix(inside).lstrip("/")
    if not wanted:
        raise ModelFilesError(f"{text} holds no adapter of the authors' layout ({', '.join(sorted(adapters))})")
    hub.fetch(listing, wanted, place)


def _from_url(text: str, place: Path) -> None:
    url, _, fragment = text.partition("#")
    wanted = fragment.removeprefix("sha256=")
    archive = place.with_suffix(".archive")
    if not archive.is_file():
        partial = place.with_suffix(".archive.partial")
        partial.parent.mkdir(parents=True, exist_ok=True)
        try:
            with transfer(None) as advance:
                # Not the hub's headers: its token is nobody else's business
                agent = {"user-agent": AGENT}
                download(url, partial, agent, limit=MAX_BYTES, advance=lambda count: advance(shown(url), count))
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise ModelFilesError(
                f"{shown(url)} cannot be fetched ({_reason(error)}): repeat the command, and it goes on"
            ) from None
        partial.replace(archive)
    try:
        if wanted and sha256(archive) != wanted:
            raise ModelFilesError(f"{shown(url)} has another sha256 than the one after the #: check both")
        shutil.rmtree(place, ignore_errors=True)
        unpack(archive, place)
    finally:
        archive.unlink()
