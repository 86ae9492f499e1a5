"""The variants a worker serves: all loaded and warmed at start, all resident until it ends."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import structlog
import torch

from model.backend.choose import AUTO, EAGER, OPENVINO, NoBackend, Report, use_backend
from model.pipeline import OMGSRPipeline
from model.quantize import quantize_as_checked
from model.variant import Variant, find_variants
from service.errors import Unavailable
from service.job import VariantInfo
from service.settings import Settings
from service.worker.memory import Room, allow_strips, free_bytes, weight_bytes
from service.worker.served import Models, Served
from service.worker.warm_up import Measured, measure, warm_up

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


def load_models(settings: Settings) -> Models:
    """Every variant of the settings, ready to run. One that cannot be loaded or run, or has no room, is a failed start.

    Raises ModelFilesError for files that are missing or damaged, Unavailable otherwise.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = pick_device(settings.device)
    budget = settings.max_device_bytes or free_bytes(device)
    room = Room(budget)
    pipes, found = dict[str, OMGSRPipeline](), dict[str, Measured]()
    for name, folder in variant_folders(settings.models).items():
        with _refusals(name, device):
            pipe = OMGSRPipeline.from_variant(folder, device=device, dtype=dtype_on(device), fold=True)
            if kind := quantize_as_checked(pipe):
                _log.info("model quantised", model=name, kind=kind)
            room.settle(name, weight_bytes([pipe.vae, pipe.denoiser.network]))
            pipes[name], found[name] = pipe, measure(pipe)
    served = {}
    for name, pipe in pipes.items():
        with _refusals(name, device):
            compiled = _accelerate(name, pipe, settings, room)
            room.check_native(name, pipe.geometry, found[name].each)
            each = allow_strips(pipe.vae, found[name].each, room.left, compiled=compiled)
            seconds = warm_up(
                pipe,
                replace(found[name], each=each),
                max_batch=settings.max_batch,
                max_pixels=settings.max_batch_pixels,
                free_bytes=room.left,
            )
        served[name] = Served(info(pipe), pipe, each, seconds)
        _log.info("model ready", model=name, device=str(device), seconds_per_megapixel=round(seconds, 4))
    return Models(served, room.left, budget - room.left)


@contextmanager
def _refusals(name: str, device: torch.device) -> Iterator[None]:
    """What goes wrong with a variant at start, in words."""
    try:
        yield
    except NoBackend as error:
        raise Unavailable(str(error), "Choose another one with OMGSR_BACKEND, or auto.") from error
    except (RuntimeError, MemoryError) as error:  # torch's errors, out-of-memory among them
        raise Unavailable(
            f"The model {name!r} does not run on {device}: {str(error) or 'not enough memory'}",
            "Free the device's memory, serve fewer models, or choose another device (OMGSR_DEVICE).",
        ) from error


def _accelerate(name: str, pipe: OMGSRPipeline, settings: Settings, room: Room) -> bool:
    """Put the networks on the backend of the settings; whether it runs the VAE, or a part of it.

    OpenVINO keeps its own copy of the weights, if there is room.
    """
    wanted: str = settings.backend
    copy = weight_bytes([pipe.vae, pipe.denoiser.network])
    if wanted == AUTO and pipe.device.type == "cpu" and copy > room.left:
        _log.info("backend refused", model=name, backend=OPENVINO, reason="no memory for a second copy of the weights")
        wanted = EAGER
    report = use_backend(pipe, wanted, settings.state_dir / "cache")
    _tell(name, report)
    if OPENVINO in report.backends:
        room.settle(name, copy)
    return {report.chosen["encode"], report.chosen["decode"]} != {EAGER}


def _tell(name: str, report: Report) -> None:
    """Log what runs the networks, and on what grounds."""
    for stage, backend in report.chosen.items():
        trials = report.trials.get(stage, {})
        seconds = {each: round(trial.seconds, 4) for each, trial in trials.items()}
        errors = {each: float(f"{trial.error:.1e}") for each, trial in trials.items()}
        _log.info("backend chosen", model=name, stage=stage, backend=backend, seconds=seconds, errors=errors)
    for what, reason in report.refused.items():
        _log.info("backend refused", model=name, backend=what, reason=reason)


def dtype_on(device: torch.device) -> torch.dtype | None:
    """The variant's own dtype on a GPU; float32 on a CPU, where the short ones are slower, not faster."""
    return torch.float32 if device.type == "cpu" else None


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
