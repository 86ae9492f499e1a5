"""`omgsr upscale` without a server: files in, files out, the same pipeline and the same file rules."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from model.pipeline import OMGSRPipeline
from model.plan import tile_count
from model.upscale import Op, Predict, drive
from service import images
from service.errands import Errand, appearing
from service.errors import TooManyBytes
from service.job import UpscaleOptions
from service.limits import check_result
from service.settings import Settings
from service.worker.memory import allow_strips, free_bytes
from service.worker.pixels import to_picture, to_tensor
from service.worker.warm_up import measure

LARGE = 2**21
"""Pixels of a result for which it is worth a native image's time to know what fits."""


def upscale_file(
    pipe: OMGSRPipeline,
    errand: Errand,
    options: UpscaleOptions,
    settings: Settings,
    on_tile: Callable[[int, int], None],
) -> None:
    """Upscale one file; `on_tile` is told the tiles done and those in all. The result appears whole or not at all.

    On a CPU, and elsewhere where it is large, it may go through the VAE in strips: the same image in less memory.
    """
    if (length := errand.source.stat().st_size) > settings.max_upload_bytes:
        raise TooManyBytes(f"The file has {length:,} bytes, beyond {settings.max_upload_bytes:,}.")
    picture = images.decode(errand.source.read_bytes(), max_pixels=settings.max_input_pixels)
    size = (picture.width, picture.height)
    check_result(size, options.scale, options.format, pipe.geometry.process_size, settings.max_output_pixels)
    if pipe.device.type == "cpu":
        pipe.vae.whole_pixels = 0  # in strips torch is faster there, whatever the size
    elif pipe.vae.whole_pixels is None and size[0] * size[1] * options.scale**2 > LARGE:
        free = settings.max_device_bytes or free_bytes(pipe.device)
        allow_strips(pipe.vae, measure(pipe).each, free, compiled=False)
    done, total = 0, tile_count(size, options.scale, pipe.geometry)

    def execute(ops: Sequence[Op]) -> list[Tensor]:
        nonlocal done
        results = pipe.execute(ops)
        if isinstance(ops[0], Predict):
            done += len(ops)
            on_tile(done, total)
        return results

    steps = pipe.upscale(
        to_tensor(picture),
        scale=options.scale,
        strength=options.strength,
        color_fix=options.color_fix,
        deep=picture.depth > 8,
    )
    with torch.no_grad():
        (upscaled,) = drive([steps], execute, settings.max_batch)
    data, _ = images.encode(to_picture(upscaled, picture, options), options.format, options.quality)
    with appearing(errand.target) as file:
        file.write(data)
