"""Fewer bits for the denoiser's linear layers, and only where real photos show that it does not matter. By torchao.

`int8`: weights alone, a byte each; for small cards, runs anywhere. `fp8`: weights (row by row) and activations (as
they come), for the matrix units of Ada and Hopper; faster only under `torch.compile`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn

from model.analysis.pairs import find_photos
from model.analysis.quality import psnr
from model.errors import DataError, ModelFilesError
from model.fold.linear import as_linear_layers
from model.pipeline import MAX_BATCH, OMGSRPipeline, to_pixels
from model.upscale import drive
from model.variant import LEAST_PSNR_DB, Quantized, Variant

Kind = Literal["int8", "fp8"]
FP8_CAPABILITY = (8, 9)
FP8_MULTIPLE = 16
"""What the float8 matrix kernels need the features in and out to be a multiple of."""
SCALE = 4
"""Of the check's images."""


@dataclass(frozen=True)
class Report:
    """What the check found."""

    kind: Kind
    psnr_db: float
    """Of the worst photo, against the same pipeline unquantised; pixels not rounded to levels."""
    photos: int
    bytes_before: int
    """Of the denoiser's parameters and buffers."""
    bytes_after: int


def obstacle(pipe: OMGSRPipeline, kind: Kind) -> str:
    """Why this pipeline cannot run so; empty where it can."""
    if kind == "int8":
        return ""
    if pipe.device.type != "cuda" or torch.cuda.get_device_capability(pipe.device) < FP8_CAPABILITY:
        return f"fp8 needs an NVIDIA GPU of compute capability 8.9 or later (Ada, Hopper), not {pipe.device}: take int8"
    if (dtype := next(pipe.denoiser.network.parameters()).dtype) != torch.bfloat16:
        return f"fp8 by rows needs bfloat16 around it, not {dtype}: say so in variant.json"
    return ""


def quantize(pipe: OMGSRPipeline, kind: Kind) -> None:
    """Quantise the linear layers of the denoiser in place: after weights are folded, before anything is compiled.

    Raises ModelFilesError where the kind cannot run, or torchao is not there.
    """
    if why := obstacle(pipe, kind):
        raise ModelFilesError(why)
    try:
        from torchao.quantization import quantize_
    except ModuleNotFoundError as error:
        raise ModelFilesError(f"{kind} needs torchao: pip install 'omgsr-serve[quant]'") from error
    as_linear_layers(pipe.denoiser.network)  # where they were folded into products
    quantize_(pipe.denoiser.network, _config(kind), filter_fn=_FITS[kind])


def _config(kind: Kind) -> Any:
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, Int8WeightOnlyConfig, PerRow

    if kind == "int8":
        return Int8WeightOnlyConfig(version=2)
    return Float8DynamicActivationFloat8WeightConfig(granularity=PerRow())


def _is_linear(module: nn.Module, _name: str) -> bool:
    return isinstance(module, nn.Linear)


def _fits_fp8(module: nn.Module, _name: str) -> bool:
    return isinstance(module, nn.Linear) and all(side % FP8_MULTIPLE == 0 for side in module.weight.shape)


_FITS = {"int8": _is_linear, "fp8": _fits_fp8}


def quantize_as_checked(pipe: OMGSRPipeline) -> Kind | None:
    """Quantise as the variant's file says, if it says so and the pipeline can; returns the kind that is now at work."""
    checked = pipe.variant and pipe.variant.quantized
    if not checked or obstacle(pipe, checked.kind):
        return None
    quantize(pipe, checked.kind)
    return checked.kind


@torch.no_grad()
def quantize_if_equal(
    pipe: OMGSRPipeline, kind: Kind, photos: Sequence[Image.Image], least_psnr_db: float = LEAST_PSNR_DB
) -> Report:
    """Quantise in place, provided that every photo's image keeps `least_psnr_db` to the one made before.

    Of a photo its middle is taken, which fills one tile. Raises ModelFilesError with the figure where it falls short,
    and where the kind cannot run or changes nothing; the pipeline is then of no further use.
    """
    if why := obstacle(pipe, kind):
        raise ModelFilesError(why)
    inputs = [to_pixels(_middle(photo, pipe.geometry.process_size // SCALE)) for photo in photos]
    before, bytes_before = _images(pipe, inputs), stored_bytes(pipe.denoiser.network)
    quantize(pipe, kind)
    figures = [psnr(image, plain, peak=1) for image, plain in zip(_images(pipe, inputs), before, strict=True)]
    report = Report(kind, min(figures), len(photos), bytes_before, stored_bytes(pipe.denoiser.network))
    if report.bytes_after >= bytes_before:
        raise ModelFilesError(f"{kind} saves nothing: the denoiser has no linear layers that it fits")
    if report.psnr_db < least_psnr_db:
        raise ModelFilesError(
            f"{kind} is refused: {report.psnr_db:.1f} dB PSNR against the unquantised model on the worst of "
            f"{len(photos)} photos, and {least_psnr_db:g} dB is the least. Serve this variant as it is"
        )
    return report


def quantize_variant(
    folder: Path, kind: Kind, photos: str, device: str = "cpu", least_psnr_db: float = LEAST_PSNR_DB
) -> Report:
    """Check the variant in `folder` on `photos` (a folder or a pattern) and, if it passes, say so in its variant.json.

    Raises as `quantize_if_equal`, DataError where there is no photo; variant.json is then what it was.
    """
    pipe = OMGSRPipeline.from_variant(
        folder, device=device, dtype=torch.float32 if device == "cpu" else None, fold=True
    )
    report = quantize_if_equal(pipe, kind, [_read(path) for path in find_photos(photos)], least_psnr_db)
    found = Quantized(kind=kind, psnr_db=round(report.psnr_db, 2), checked_on=datetime.now(UTC).date())
    Variant.read(folder).model_copy(update={"quantized": found}).write(folder)
    return report


def stored_bytes(network: nn.Module) -> int:
    """Of parameters and buffers, as they lie in memory: a quantised weight counts what it is made of."""
    return sum(part.nbytes for whole in (*network.parameters(), *network.buffers()) for part in _parts(whole))


def _parts(tensor: Tensor) -> Iterator[Tensor]:
    if not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    names, _ = tensor.__tensor_flatten__()
    for name in names:
        yield from _parts(getattr(tensor, name))


def _images(pipe: OMGSRPipeline, inputs: Sequence[Tensor]) -> list[Tensor]:
    return drive([pipe.upscale(pixels, scale=SCALE) for pixels in inputs], pipe.execute, MAX_BATCH)


def _read(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        raise DataError(f"{path} cannot be read as a picture: {error}") from error


def _middle(photo: Image.Image, side: int) -> Image.Image:
    width, height = min(side, photo.width), min(side, photo.height)
    left, top = (photo.width - width) // 2, (photo.height - height) // 2
    return photo.crop((left, top, left + width, top + height))
