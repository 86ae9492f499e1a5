"""A variant on disk: what makes a base and its adapters one servable model, and the check that they belong together."""

import json
from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Literal, Self

import diffusers
from diffusers import AutoencoderKL
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from model.adapter import DENOISER_ADAPTER, VAE_ADAPTER, check_adapter, find_adapter
from model.errors import ModelFilesError
from model.family import family_named
from model.files import base_sha256, file_sha256
from model.plan import Geometry
from model.prompt import load_prompt
from model.sums import damaged

FILE = "variant.json"
PROMPT = "prompt.safetensors"
BASE_FILE = "base.json"
"""In a base's folder: its id, and its revision."""
FLUX_TEXT_LENGTH = 512
"""Tokens of an F prompt whose variant.json states none: FLUX was trained on so many."""
LEAST_PSNR_DB = 40.0
"""What a quantised denoiser must keep to the plain one, on every photo of the check."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Base(_Part):
    """The one base that the adapters were trained on."""

    id: str = Field(description="hub id, e.g. stabilityai/sd-turbo")
    revision: str = ""
    sha256: str = Field(description="`model.files.base_sha256` of its folder")


class Prompt(_Part):
    """The fixed prompt behind prompt.safetensors."""

    text: str
    sha256: str = Field(description="of prompt.safetensors")


class Quantized(_Part):
    """The check that lets the denoiser run in fewer bits (`omgsr models quantize`)."""

    kind: Literal["int8", "fp8"]
    psnr_db: float = Field(ge=LEAST_PSNR_DB, description="to the plain model, on the worst photo")
    checked_on: date


class Variant(_Part):
    """The contents of variant.json."""

    format: Literal[1] = 1
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    family: Literal["sd", "flux"]
    base: Base
    mid_timestep: int = Field(ge=0)
    native_size: int = Field(description="pixels: what the denoiser was trained at")
    process_size: int = Field(description="pixels: the short side is raised to at least this")
    tile: int = Field(description="latents")
    overlap: int = Field(description="latents")
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    color_fix: Literal["adain", "wavelet", "none"] = "adain"
    prompt: Prompt
    text_length: int | None = Field(default=None, ge=1, description="tokens of the prompt; null: 512 for F, any for S")
    license: str
    quantized: Quantized | None = None

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read `folder`/variant.json. Raises ModelFilesError if it is missing or not valid."""
        path = folder / FILE
        if not path.is_file():
            raise ModelFilesError(f"{folder} is no variant: {FILE} is missing")
        try:
            return cls.model_validate(json.loads(path.read_text()))
        except (ValidationError, json.JSONDecodeError) as error:
            raise ModelFilesError(f"{path} is not valid: {error}") from error

    def write(self, folder: Path) -> None:
        """Write `folder`/variant.json whole or not at all."""
        partial = folder / f"{FILE}.partial"
        partial.write_text(self.model_dump_json(indent=2) + "\n")
        partial.replace(folder / FILE)

    @model_validator(mode="after")
    def _has_a_geometry(self) -> Self:
        _ = self.geometry  # raises where tile, overlap and process size do not go together
        return self

    @property
    def geometry(self) -> Geometry:
        """Sizes and tiles, for the plan."""
        return Geometry(self.process_size, self.tile, self.overlap, family_named(self.family).multiple)


def find_base(folder: Path, base_id: str) -> Path:
    """The base of the variant in `folder`: its own `base/`, or `bases/<id>` beside it, shared by variants."""
    places = [folder / "base", folder.parent / "bases" / base_id.replace("/", "--")]
    for place in places:
        if place.is_dir():
            return place
    raise ModelFilesError(
        f"base {base_id!r} of {folder.name} is in neither {places[0]} nor {places[1]}: fetch it there"
    )


def check_base(variant: Variant, base: Path) -> None:
    """Refuse a base that is not the variant's own, though its shapes may fit (ModelFilesError)."""
    named = stated_id(base) or variant.base.id
    if named != variant.base.id:
        raise ModelFilesError(
            f"{variant.name} belongs to base {variant.base.id!r}, but {base} is {named!r}: use its own"
        )
    found = base_sha256(base, family_named(variant.family).components)
    if found != variant.base.sha256:
        check_sums(base)
        raise ModelFilesError(
            f"{base} is not the base that {variant.name} was trained on: sha256 {found[:12]}… "
            f"instead of {variant.base.sha256[:12]}…; fetch {variant.base.id!r} again"
        )


def stated_id(base: Path) -> str | None:
    """The id that `base`/base.json gives, if there is one. Raises ModelFilesError if it cannot be read."""
    path = base / BASE_FILE
    if not path.is_file():
        return None
    try:
        return str(json.loads(path.read_text())["id"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFilesError(f"{path} does not say the base's id: {error!r}") from error


def check_sums(folder: Path) -> None:
    """Refuse a folder of which files are missing or changed since its SHA256SUMS was written (ModelFilesError)."""
    if names := damaged(folder):
        raise ModelFilesError(
            f"{folder} is damaged ({', '.join(names)} changed or missing): pull again, or copy it again"
        )


def check_adapters(variant: Variant, folder: Path, base: Path) -> None:
    """Refuse adapters whose keys or shapes do not fit the base (ModelFilesError), without loading the base."""
    family = family_named(variant.family)
    check_adapter(AutoencoderKL, base / "vae", "encoder", find_adapter(folder, VAE_ADAPTER))
    denoiser = getattr(diffusers, family.denoiser)
    check_adapter(denoiser, base / family.components[0], "", find_adapter(folder, DENOISER_ADAPTER))


def check_prompt(variant: Variant, folder: Path) -> Path:
    """The variant's prompt file, if it is the one that variant.json names, and so long (ModelFilesError if not)."""
    path = folder / PROMPT
    if not path.is_file() or file_sha256(path) != variant.prompt.sha256:
        raise ModelFilesError(f"{path} is missing or changed: embed the prompt again (omgsr models embed-prompt)")
    wanted = variant.text_length or (FLUX_TEXT_LENGTH if variant.family == "flux" else None)
    length = load_prompt(path)["prompt_embeds"].shape[1]
    if wanted not in {None, length}:
        raise ModelFilesError(
            f"{path} has {length} tokens, {variant.name} was trained with {wanted}: embed the prompt again "
            f"(omgsr models embed-prompt --text-length {wanted}), or correct text_length in {FILE}"
        )
    return path


def find_variants(paths: Iterable[Path]) -> list[Path]:
    """Variant folders among `paths` and one level below them, in order of name."""
    return [folder for path in paths for folder in _variants_at(path)]


def _variants_at(path: Path) -> Iterator[Path]:
    if (path / FILE).is_file():
        yield path
    elif path.is_dir():
        yield from sorted(child for child in path.iterdir() if (child / FILE).is_file())


def verify_variant(folder: Path) -> list[str]:
    """Everything that is wrong with the variant in `folder`, each with what to do; empty when it is sound."""
    try:
        variant = Variant.read(folder)
    except ModelFilesError as error:
        return [str(error)]
    faults = []
    for check in (
        lambda: check_sums(folder),
        lambda: check_base(variant, find_base(folder, variant.base.id)),
        lambda: check_prompt(variant, folder),
        lambda: check_adapters(variant, folder, find_base(folder, variant.base.id)),
    ):
        try:
            check()
        except ModelFilesError as error:
            faults.append(str(error))
    return faults
