"""Between a picture's levels and the model's floats."""

import numpy as np
import torch
from torch import Tensor

from model.transfer import download
from service.images import Picture, Pixels
from service.job import BitDepth, UpscaleOptions

_DTYPES: dict[BitDepth, torch.dtype] = {8: torch.uint8, 16: torch.uint16}


def to_tensor(picture: Picture) -> Tensor:
    """The colours as [3,H,W] float32 in [0,1]; what is hidden by alpha does not count."""
    rgb = picture.filled_rgb
    return torch.from_numpy(rgb.astype(np.float32)).permute(2, 0, 1) / np.iinfo(rgb.dtype).max


def to_picture(pixels: Tensor, photo: Picture, options: UpscaleOptions) -> Picture:
    """The result [3,H,W] in [0,1], rounded once to the depth asked for, with what the photo carried beside colours."""
    top, dtype = 2**options.depth - 1, _DTYPES[options.depth]
    levels: Pixels = download((pixels * top).round().to(dtype).permute(1, 2, 0).contiguous()).numpy()
    picture = photo.with_rgb(levels)
    return picture.without_exif() if options.metadata == "strip" else picture
