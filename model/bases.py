"""A base in the folder of the weights: which files of it are needed, and how they come there from a hub or a folder."""

import json
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from model.errors import ModelFilesError
from model.family import FAMILIES
from model.files import CONFIGS, WEIGHTS
from model.hub import MAIN, Hub, Repository
from model.licence import Ask, recorded_licence, require_licence
from model.released import LICENCES, Licence, same_model
from model.sums import damaged, write_sums
from model.variant import BASE_FILE, stated_id

TOKENIZER_SUFFIXES = (".json", ".txt", ".model")
ENCODERS = {"sd": ("text_encoder",), "flux": ("text_encoder", "text_encoder_2")}
TOKENIZERS = {"sd": ("tokenizer",), "flux": ("tokenizer", "tokenizer_2")}

Source = Repository | Path
"""Where a base comes from: a repository of the hub, or a diffusers folder."""


@dataclass(frozen=True)
class Shelf:
    """The folder that holds variants and, shared by them, their bases; and how it is filled."""

    root: Path
    hub: Hub
    ask: Ask
    half: bool = True
    """Take 16-bit files where a base has them."""

    def base(self, base_id: str) -> Path:
        """Where `model.variant.find_base` looks for it."""
        return self.root / "bases" / base_id.replace("/", "--")

    def variant(self, name: str) -> Path:
        """Where a variant lies."""
        return self.root / name

    def partial(self, *names: str) -> Path:
        """A place for what is not whole yet: `find_variants` does not see it."""
        return self.root.joinpath(".partial", *names)


def source_of(text: str) -> Source:
    """A folder that exists, or OWNER/NAME[@REVISION]. Raises ModelFilesError for anything else."""
    return Path(text) if Path(text).is_dir() else Repository.parse(text)


def base_id_of(source: Source, given: str) -> str:
    """The name that variants know the base by: the repository's; of a folder what its base.json says, or `given`."""
    if isinstance(source, Repository):
        return source.id
    return stated_id(source) or given or source.resolve().name


def place_base(source: Source, base_id: str, family: str, shelf: Shelf) -> Path:
    """The folder of the base on the shelf: as it is there if it is whole, else brought there, and mended.

    Raises ModelFilesError where it cannot be had, or its licence is not accepted.
    """
    place, staging = shelf.base(base_id), shelf.partial("bases", shelf.base(base_id).name)
    shelf.root.mkdir(parents=True, exist_ok=True)
    if known := known_licence(base_id):
        require_licence(base_id, known, shelf.root, shelf.ask)
    if place.is_dir():
        if not lacking(place, family) and not damaged(place):
            _require_revision(source, place)
            return place
        shutil.rmtree(staging, ignore_errors=True)
        staging.parent.mkdir(parents=True, exist_ok=True)
        place.rename(staging)
    staging.mkdir(parents=True, exist_ok=True)
    if isinstance(source, Path):
        names = _link_base(source, base_id, family, staging, half=shelf.half)
    else:
        listing = shelf.hub.list_files(_as_begun(source, staging))
        wanted = serving_files(listing.files, family, base_id, half=shelf.half)
        require_licence(base_id, listing.licence, shelf.root, shelf.ask)
        _write_identity(staging, base_id, listing.commit)
        shelf.hub.fetch(listing, wanted, staging)
        names = set(wanted.values())
    write_sums(staging, names)
    place.parent.mkdir(exist_ok=True)
    staging.rename(place)
    return place


def fetch_encoders(source: Repository, base_id: str, family: str, shelf: Shelf) -> Path:
    """The base's text encoders and tokenizers, for `embed_prompt`, in a place of their own: delete it afterwards."""
    listing = shelf.hub.list_files(_as_begun(source, shelf.base(base_id)))
    wanted: dict[str, str] = {}
    for folder in ENCODERS[family]:
        wanted |= _component(listing.files, folder, "model", base_id, half=shelf.half)
    for folder in TOKENIZERS[family]:
        names = [name for name in _inside(listing.files, folder) if name.endswith(TOKENIZER_SUFFIXES)]
        if not names:
            raise ModelFilesError(f"{base_id} has no {folder}: embed the prompt elsewhere, and give --prompt-file")
        wanted |= {name: name for name in names}
    place = shelf.partial("encoders", shelf.base(base_id).name)
    shelf.hub.fetch(listing, wanted, place)
    return place


def serving_files(names: Iterable[str], family: str, base_id: str, *, half: bool) -> dict[str, str]:
    """Which of a base's files are served, and what each is called on the shelf. Safetensors only, never pickle.

    Not the text encoders, not single-file checkpoints, one precision. Raises ModelFilesError where a part is missing.
    """
    names = set(names)
    wanted = {name: name for name in names if "/" not in name and name.upper().startswith("LICENSE")}
    for folder in FAMILIES[family].components:
        wanted |= _component(names, folder, WEIGHTS, base_id, half=half)
    return wanted


def lacking(base: Path, family: str) -> list[str]:
    """What `serving_files` would want, and the folder lacks."""
    names = [path.relative_to(base).as_posix() for path in base.glob("*/*") if path.is_file()]
    try:
        wanted = serving_files(names, family, str(base), half=False)
    except ModelFilesError as error:
        return [str(error)]
    return [
        f"{PurePosixPath(index).parent / shard}"
        for index in wanted
        if index.endswith(".index.json")
        for shard in set(json.loads((base / index).read_text())["weight_map"].values())
        if not (base / index).with_name(shard).is_file()
    ]


def known_licence(base_id: str) -> Licence | None:
    """The licence of a base that this project knows, or of a mirror of it."""
    return next((licence for name, licence in LICENCES.items() if same_model(name, base_id)), None)


def licence_name(base_id: str, root: Path) -> str:
    """What variant.json says of it: the known name, or the one that was accepted for the folder `root`."""
    known = known_licence(base_id)
    name = known.name if known else recorded_licence(base_id, root)
    return name or f"of the base, {base_id}"


def _component(names: Iterable[str], folder: str, stem: str, base_id: str, *, half: bool) -> dict[str, str]:
    here = set(_inside(names, folder))
    configs = {name: name for name in here if PurePosixPath(name).name in CONFIGS}
    if not configs:
        raise ModelFilesError(f"{base_id} has no {folder}/config.json: it is no diffusers folder of this family")
    if folder == "scheduler":
        return configs
    whole = f"{folder}/{stem}.safetensors"
    halves = [name for kind in ("bf16", "fp16") if (name := f"{folder}/{stem}.{kind}.safetensors") in here]
    if halves and (half or whole not in here):
        return configs | {halves[0]: whole}
    if whole in here:
        return configs | {whole: whole}
    shards = {name: name for name in here if re.fullmatch(rf"{folder}/{stem}-\d+-of-\d+\.safetensors", name)}
    if not shards:
        raise ModelFilesError(f"{base_id} has no {whole}: other kinds of weights (.bin, .ckpt) can hold code")
    index = f"{whole}.index.json"
    return configs | shards | ({index: index} if index in here else {})


def _inside(names: Iterable[str], folder: str) -> Iterable[str]:
    return (name for name in names if name.rpartition("/")[0] == folder)


def base_revision(base: Path) -> str:
    """The commit that its base.json names; empty where it names none."""
    path = base / BASE_FILE
    return str(json.loads(path.read_text()).get("revision", "")) if path.is_file() else ""


def _as_begun(source: Repository, base: Path) -> Repository:
    """At the commit that `base` was begun with, unless another is asked for by name: main may have moved since."""
    return Repository(source.id, base_revision(base) or source.revision) if source.revision == MAIN else source


def _require_revision(source: Source, base: Path) -> None:
    wanted = source.revision if isinstance(source, Repository) else MAIN
    if re.fullmatch("[0-9a-f]{7,40}", wanted) and not base_revision(base).startswith(wanted):
        raise ModelFilesError(
            f"{base} is at revision {base_revision(base) or 'unknown'}, not at {wanted}, and other variants may need "
            "it so: choose another --into"
        )


def _write_identity(base: Path, base_id: str, revision: str) -> None:
    (base / BASE_FILE).write_text(json.dumps({"id": base_id, "revision": revision}, indent=2) + "\n")


def _link_base(source: Path, base_id: str, family: str, staging: Path, *, half: bool) -> set[str]:
    """The needed files of a folder, under second names where the file system can, else copied."""
    names = [path.relative_to(source).as_posix() for path in (*source.glob("*"), *source.glob("*/*")) if path.is_file()]
    wanted = serving_files(names, family, base_id, half=half)
    for name, local in wanted.items():
        place = staging / local
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        try:
            os.link((source / name).resolve(), place)
        except OSError:
            shutil.copyfile(source / name, place)
    _write_identity(staging, base_id, base_revision(source))
    return set(wanted.values())
