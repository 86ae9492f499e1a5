"""The variants a worker serves: all loaded and warmed at start, all resident until it ends."""

from collections.abc import Iterable
from pathlib import Path

import structlog
import torch

from model.pipeline import OMGSRPipeline
from model.upscale import drive
from model.variant import Variant, find_variants
from service.errors import Unavailable
from service.job import VariantInfo
from service.settings import Settings

_log = structlog.get_logger(__name__)


def pick_device(wanted: str) -> torch.device:
    """The device that the setting names; `auto` is the GPU where there is one."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def variant_folders(paths: Iterable[Path]) -> dict[str, Path]:
    """The variants in the folders given, by name; none at all, or two of one name, is refused."""
    paths = list(paths)
    found: dict[str, Path] = {}
    for folder in find_variants(paths):
        name = Variant.read(folder).name
        if name in found:
            raise Unavailable(
                f"Two variants are called {name!r}: {found[name]} and {folder}.", "Rename one in its variant.json."
            )
        found[name] = folder
    if not found:
        raise Unavailable(
            f"No model: there is no variant folder (one with a variant.json) in {', '.join(map(str, paths))}.",
            "Name folders that hold some: --models DIR, or OMGSR_MODELS='[\"DIR\"]'.",
        )
    return found


def load_variants(settings: Settings) -> dict[str, OMGSRPipeline]:
    """Every variant of the settings, ready to run. A variant that cannot be loaded or run is a failed start."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = pick_device(settings.device)
    pipes = {}
    for name, folder in variant_folders(settings.models).items():
        pipes[name] = OMGSRPipeline.from_variant(folder, device=device, dtype=dtype_on(device))
        warm_up(pipes[name], settings.max_batch)
        _log.info("model ready", model=name, device=str(device))
    return pipes


def dtype_on(device: torch.device) -> torch.dtype | None:
    """The variant's own dtype on a GPU; float32 on a CPU, where the short ones are slower, not faster."""
    return torch.float32 if device.type == "cpu" else None


def warm_up(pipe: OMGSRPipeline, max_batch: int) -> None:
    """Run one small image all the way, so that the first client does not wait for one-time work."""
    side = max(1, pipe.geometry.process_size // 4)
    drive([pipe.upscale(torch.zeros(3, side, side), scale=4)], pipe.execute, max_batch)


def info(pipe: OMGSRPipeline) -> VariantInfo:
    """What clients are told about a variant."""
    variant = pipe.variant
    if variant is None:
        raise ValueError("a served pipeline comes from a variant folder")
    return VariantInfo(
        name=variant.name,
        family=variant.family,
        base=variant.base.id,
        mid_timestep=variant.mid_timestep,
        native_size=variant.native_size,
        process_size=variant.process_size,
        license=variant.license,
        color_fix=variant.color_fix,
    )
