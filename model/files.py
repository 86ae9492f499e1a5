"""Diffusers folders on disk: which files count, what they hash to, how they load. Safetensors only, never pickle."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from model.errors import ModelFilesError

CONFIGS = ("config.json", "scheduler_config.json")
WEIGHTS = "diffusion_pytorch_model"


def load_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file. Raises ModelFilesError if it is missing or damaged."""
    if not path.is_file():
        raise ModelFilesError(f"{path} is missing: fetch or copy it again")
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise ModelFilesError(f"{path} is damaged or truncated ({error}): fetch or copy it again") from error
    return tensors


def load_component(cls: Any, folder: Path) -> Any:
    """One diffusers model (`cls`) from its folder, for inference, in the precision that its file has."""
    _check_config(folder)
    dtypes = [_stored_dtype(path) for path in weight_files(folder)]
    try:
        model = cls.from_pretrained(folder, torch_dtype=dtypes[0], use_safetensors=True, local_files_only=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelFilesError(f"{folder} does not load as {cls.__name__}: {error}") from error
    return model.eval().requires_grad_(False)


def empty_component(cls: Any, folder: Path) -> Any:
    """As `load_component`, on the meta device: its shapes, not its weights."""
    _check_config(folder)
    try:
        with torch.device("meta"):
            model = cls.from_config(cls.load_config(folder))
    except (OSError, ValueError, TypeError) as error:
        raise ModelFilesError(f"{folder} is no {cls.__name__}: {error}") from error
    return model.eval().requires_grad_(False)


class Tensors:
    """The tensors of safetensors files, each read when it is asked for. Raises ModelFilesError for a damaged file."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._files: dict[str, Any] = {}
        for path in paths:
            file = _opened(path)
            self._files.update(dict.fromkeys(file.keys(), file))

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._files[name].get_tensor(name)
        return tensor


def cast(model: Any, dtype: torch.dtype) -> Any:
    """`model` in `dtype`."""
    # diffusers' own `to` warns of modules to keep in float32, of which the models here have none
    return nn.Module.to(model, dtype)


def weight_files(folder: Path) -> list[Path]:
    """The weights that `load_component` reads, shards in order; other precisions beside them do not count."""
    whole = folder / f"{WEIGHTS}.safetensors"
    files = [whole] if whole.is_file() else sorted(folder.glob(f"{WEIGHTS}-*-of-*.safetensors"))
    if not files:
        raise ModelFilesError(f"{whole} is missing: fetch or copy the base again")
    return files


def base_sha256(base: Path, components: tuple[str, ...]) -> str:
    """Identity of a base: sha256 over names and contents of all that is loaded of it.

    SD-Turbo and SD 2.1-base have equal shapes, so only the contents tell them apart.
    """
    digest = hashlib.sha256()
    for path in _identity_files(base, components):
        with path.open("rb") as file:
            digest.update(path.relative_to(base).as_posix().encode())
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """Sha256 of one file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _identity_files(base: Path, components: tuple[str, ...]) -> Iterator[Path]:
    for component in components:
        folder = base / component
        yield from (folder / name for name in CONFIGS if (folder / name).is_file())
        if (folder / "config.json").is_file():
            yield from weight_files(folder)


def _check_config(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ModelFilesError(f"{folder} is no diffusers folder (config.json is missing): check the base's path")


def _stored_dtype(path: Path) -> torch.dtype:
    # diffusers answers a truncated file with advice about git-lfs; opening it here tells what is the matter
    file = _opened(path)
    first: Tensor = file.get_tensor(next(iter(file.keys())))
    return first.dtype


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, "pt")
    except SafetensorError as error:
        raise ModelFilesError(f"{path} is damaged or truncated ({error}): fetch or copy it again") from error
