"""Between a file's bytes of colour and the model's floats."""

import torch
from torch import Tensor

from service.images import Pixels


def to_tensor(rgb: Pixels) -> Tensor:
    """[H,W,3] uint8 as [3,H,W] float32 in [0,1]."""
    return torch.tensor(rgb).permute(2, 0, 1).float() / 255


def to_rgb(pixels: Tensor) -> Pixels:
    """[3,H,W] in [0,1] as [H,W,3] uint8, rounded to the nearest level."""
    rgb: Pixels = (pixels * 255).round().byte().permute(1, 2, 0).contiguous().cpu().numpy()
    return rgb
