"""A complete variant folder from a base and the authors' adapters; it appears whole, or not at all."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from model.adapter import DENOISER_ADAPTER, VAE_ADAPTER, WEIGHTS
from model.adapter_source import CONFIG, AdapterSource, check_origin, no_source, shown
from model.bases import (
    Shelf,
    Source,
    base_id_of,
    base_revision,
    fetch_encoders,
    lacking,
    licence_name,
    place_base,
    source_of,
)
from model.console import stderr
from model.errors import ModelFilesError
from model.family import family_named
from model.files import base_sha256
from model.released import PAPERS, Release, release_named
from model.sums import damaged, sha256, write_sums
from model.variant import (
    FILE,
    PROMPT,
    Base,
    Prompt,
    Variant,
    check_adapters,
    check_base,
    check_prompt,
    find_variants,
    verify_variant,
)


@dataclass(frozen=True)
class Wish:
    """A variant that is wanted."""

    release: Release
    base: str = ""
    """A folder, or OWNER/NAME[@REVISION]; empty: the release's."""
    base_id: str = ""
    """What a folder's base is called, where it does not say so."""
    adapters: str = ""
    prompt_file: Path | None = None
    offline: bool = False

    @property
    def name(self) -> str:
        """Of the variant."""
        return self.release.name

    @cached_property
    def source(self) -> Source:
        """Where the base comes from. Raises ModelFilesError where nobody says so."""
        named = self.base or self.release.base
        if not named:
            raise ModelFilesError(
                f"the base of {self.name} has no lasting home: Stability AI took SD 2.1-base off the hub in November "
                "2025. Name a copy that you trust: --base OWNER/NAME, or --base FOLDER"
            )
        return source_of(named)

    @cached_property
    def id(self) -> str:
        """Of the base."""
        return base_id_of(self.source, self.base_id or self.release.base)


def release_for(
    folder: Path,
    family: str | None,
    like: str,
    *,
    name: str,
    base: str,
    mid_timestep: int | None,
    size: int | None,
    prompt: str | None,
) -> Release:
    """What adapters in `folder` are to be served with: as their variant.json says, else as given, else as `like`.

    Where a `base` is given for a bare folder, it is not called what that of `like` is called.
    Raises ModelFilesError where neither says the family, and where something is given that variant.json says.
    """
    options = {"mid_timestep": mid_timestep, "size": size, "prompt": prompt}
    given: dict[str, Any] = {field: value for field, value in options.items() if value is not None}
    own = _own_variant(folder)
    name = name or (own.name if own else folder.resolve().name.lower())
    if own:
        if given or like or family not in {None, own.family}:
            raise ModelFilesError(f"{folder / FILE} says family, timestep, size and prompt: leave these options out")
        return Release(name, own.family, own.base.id, own.mid_timestep, own.native_size, own.prompt.text)
    if not (family or like):
        raise ModelFilesError(f"{folder} does not say its family: give --family sd, or --family flux")
    known = release_named(like or PAPERS[family or "sd"])
    if family not in {None, known.family}:
        raise ModelFilesError(f"{known.name} is of the family {known.family}, not {family}")
    return replace(known, name=name, base="" if base else known.base, **given)


def make_variant(wish: Wish, shelf: Shelf) -> Path:
    """Bring base, adapters and prompt together on the shelf, after asking for the base's licence; the variant's folder.

    What is there and sound is left. Raises ModelFilesError for whatever is missing or wrong; what was fetched by then
    is kept in `.partial`, and the next call goes on from there.
    """
    if shelf.variant(wish.name).is_dir() and not verify_variant(shelf.variant(wish.name)):
        return shelf.variant(wish.name)
    with _alone(shelf):
        if wish.offline:
            _require_local(wish, shelf)
        source = _adapter_source(wish, shelf)
        adapters = source.folder(wish.release.family, shelf.partial("adapters"), shelf.hub)
        for table in (VAE_ADAPTER, DENOISER_ADAPTER):
            check_origin(adapters / table[wish.release.family], wish.id)
        own = _own_variant(adapters)
        base = place_base(wish.source, wish.id, wish.release.family, shelf)
        if own:
            check_base(own.model_copy(update={"base": own.base.model_copy(update={"id": wish.id})}), base)
        staging = shelf.partial("variants", wish.name)
        _copy_adapters(wish, adapters, staging)
        _place_prompt(wish, shelf, adapters, own, staging / PROMPT)
        with stderr.status("hashing the base"):
            variant = _describe(wish, shelf, own, base, sha256(staging / PROMPT))
        _finish(variant, source, base, staging, shelf)
    return shelf.variant(wish.name)


def _adapter_source(wish: Wish, shelf: Shelf) -> AdapterSource:
    """Where the wish says; else the variant itself, whose base or prompt alone may be what is to be mended."""
    there = shelf.variant(wish.name)
    if not wish.adapters and ((there / FILE).is_file() and not damaged(there)):
        return AdapterSource(str(there))
    if not wish.adapters:
        raise no_source(wish.name)
    return AdapterSource(wish.adapters)


def _copy_adapters(wish: Wish, adapters: Path, staging: Path) -> None:
    shutil.rmtree(staging, ignore_errors=True)
    for table in (VAE_ADAPTER, DENOISER_ADAPTER):
        name = table[wish.release.family]
        (staging / name).mkdir(parents=True)
        for file in (CONFIG, WEIGHTS):
            shutil.copyfile(adapters / name / file, staging / name / file)


def _finish(variant: Variant, adapters: AdapterSource, base: Path, staging: Path, shelf: Shelf) -> None:
    """Check, write down, and put in place."""
    check_prompt(variant, staging)
    check_adapters(variant, staging, base)
    write_sums(staging, [path.relative_to(staging).as_posix() for path in staging.rglob("*") if path.is_file()])
    (staging / "README.md").write_text(card(variant, adapters.text))
    variant.write(staging)
    place, replaced = shelf.variant(variant.name), shelf.partial("replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if place.exists():
        place.rename(replaced)
    staging.rename(place)
    for leftover in (replaced, shelf.partial("adapters")):
        shutil.rmtree(leftover, ignore_errors=True)


def _describe(wish: Wish, shelf: Shelf, own: Variant | None, base: Path, prompt_sha256: str) -> Variant:
    """The contents of variant.json: the adapters' own, where they bring one, else the release's."""
    release = wish.release
    identity = Base(
        id=wish.id,
        revision=base_revision(base),
        sha256=own.base.sha256 if own else base_sha256(base, family_named(release.family).components),
    )
    if own:
        prompt = own.prompt.model_copy(update={"sha256": prompt_sha256})
        return own.model_copy(update={"name": wish.name, "base": identity, "prompt": prompt})
    return Variant(
        name=wish.name,
        family=release.family,
        base=identity,
        mid_timestep=release.mid_timestep,
        native_size=release.size,
        process_size=release.size,
        tile=release.tile,
        overlap=release.overlap,
        prompt=Prompt(text=release.prompt, sha256=prompt_sha256),
        text_length=release.text_length,
        license=licence_name(wish.id, shelf.root),
    )


def card(variant: Variant, adapters: str) -> str:
    """The model card in Markdown: what was put together, and from where."""
    rows = {
        "base": f"`{variant.base.id}` {variant.base.revision}, sha256 {variant.base.sha256[:12]}…",
        "family": variant.family,
        "adapters": f"from {shown(adapters)}, as they came",
        "mid-timestep": variant.mid_timestep,
        "size": f"{variant.native_size} px",
        "prompt": variant.prompt.text or "empty",
        "licence": variant.license,
    }
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    metrics = "Not measured here: `omgsr evaluate --lq DIR --hq DIR --model FOLDER` gives the figures."
    return "\n".join([f"# {variant.name}", "", "| | |", "|---|---|", *lines, "", "## Measured", metrics, ""])


def _place_prompt(wish: Wish, shelf: Shelf, adapters: Path, own: Variant | None, out: Path) -> None:
    """Prompt embeddings: those given, those of a variant with the same base and prompt, else embedded now."""
    if ready := _ready_prompt(wish, shelf, adapters, own):
        shutil.copyfile(ready, out)
        return
    from model.text_encoder import embed_prompt  # it brings diffusers' pipelines

    text, length = _prompt_of(wish, own)
    source, fetched = wish.source, None
    if not isinstance(source, Path):
        source = fetched = fetch_encoders(source, wish.id, wish.release.family, shelf)
    with stderr.status("embedding the prompt, once"):
        embed_prompt(source, text, out, length)
    if fetched:
        shutil.rmtree(fetched)


def _ready_prompt(wish: Wish, shelf: Shelf, adapters: Path, own: Variant | None) -> Path | None:
    if wish.prompt_file:
        return wish.prompt_file
    if own and (adapters / PROMPT).is_file():
        return adapters / PROMPT
    for folder in find_variants([shelf.root]):
        with suppress(ModelFilesError):  # a broken neighbour has no say here
            other = Variant.read(folder)
            if (other.base.id, other.prompt.text, other.text_length) == (wish.id, *_prompt_of(wish, own)):
                return check_prompt(other, folder)
    return None


def _prompt_of(wish: Wish, own: Variant | None) -> tuple[str, int | None]:
    return (own.prompt.text, own.text_length) if own else (wish.release.prompt, wish.release.text_length)


def _own_variant(adapters: Path) -> Variant | None:
    return Variant.read(adapters) if (adapters / FILE).is_file() else None


def _require_local(wish: Wish, shelf: Shelf) -> None:
    """Refuse, with all that is missing, where `wish` needs a network."""
    missing, local_base = [], isinstance(wish.source, Path)
    place = shelf.base(wish.id)
    if not local_base and (lacking(place, wish.release.family) or damaged(place)):
        missing.append(f"the base {wish.id}: it is not whole in {place}; give --base FOLDER, or copy it there")
    try:
        adapters = _adapter_source(wish, shelf)
        folder = Path(adapters.text)
        if not adapters.is_local:
            missing.append("the adapters: give --adapters FOLDER")
        elif not local_base and not _ready_prompt(wish, shelf, folder, _own_variant(folder)):
            missing.append("the prompt's embeddings: give --prompt-file, or --base FOLDER with its text encoders")
    except ModelFilesError as error:
        missing.append(str(error))
    if missing:
        raise ModelFilesError("\n- ".join([f"{wish.name} cannot be made offline. What is missing:", *missing]))


@contextmanager
def _alone(shelf: Shelf) -> Iterator[None]:
    """Only one process works on a shelf at a time; when all is done, nothing unfinished is left lying there."""
    lock = shelf.partial("lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ModelFilesError(f"another command is at work in {shelf.root}: wait until it ends") from error
        yield
        for place in lock.parent.iterdir():
            if place.is_dir() and not any(place.iterdir()):
                place.rmdir()
