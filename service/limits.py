"""How large a result may be: one judgement for the service and for `omgsr upscale`, before a pixel is worked on."""

import math

from model.plan import LATENT, Geometry, Size, output_size, processed_size, stages
from service.errors import TooManyPixels
from service.images import check_side
from service.job import OutputFormat


def check_result(size: Size, scale: float, file_format: OutputFormat, process_size: int, max_pixels: int) -> None:
    """Refuse an image of `size` (width, height) whose result, or what it is worked on at, is beyond `max_pixels`.

    `process_size` is the variant's. Raises TooManyPixels, and BadOption where the file format cannot hold the result.
    """
    width, height = output_size(size, scale)
    if width * height > max_pixels:
        raise TooManyPixels(f"The result would be {width}×{height} pixels, beyond {max_pixels:,}.")
    if math.prod(processed_size((width, height), process_size)) > max_pixels:
        raise TooManyPixels(
            f"The image is {size[0]}×{size[1]}, too long a strip for a model that works at {process_size} pixels "
            "on the short side.",
            "Cut it into shorter pieces.",
        )
    check_side(file_format, width, height)


def device_megapixels(size: Size, scale: float, process_size: int) -> float:
    """What an image of `size` costs: megapixels that the device works on, of all stages, padded to whole latents."""
    geometry = Geometry(process_size, tile=process_size // LATENT, overlap=0, multiple=LATENT)
    return sum(math.prod(stage.padded) for stage in stages(size, scale, geometry)) / 1e6
