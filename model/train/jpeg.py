"""JPEG as a tensor operation: what a photo looks like after Pillow (libjpeg) has saved and read it.

Entropy coding loses nothing, so it is left out; every step that rounds is here, in libjpeg's order and in its integers.
Integers of this size are exact in float64, so the result is the same for any batch, summation order and device.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

# The standard's example tables (ITU-T T.81, K.1), which libjpeg scales by the quality.
LUMA = """
16 11 10 16 24 40 51 61        12 12 14 19 26 58 60 55        14 13 16 24 40 57 69 56
14 17 22 29 51 87 80 62        18 22 37 56 68 109 103 77      24 35 55 64 81 104 113 92
49 64 78 87 103 121 120 101    72 92 95 98 112 100 103 99
"""
CHROMA = """
17 18 24 47 99 99 99 99        18 21 26 66 99 99 99 99        24 26 56 99 99 99 99 99
47 66 99 99 99 99 99 99        99 99 99 99 99 99 99 99        99 99 99 99 99 99 99 99
99 99 99 99 99 99 99 99        99 99 99 99 99 99 99 99
"""
TABLES = torch.tensor([[int(n) for n in table.split()] for table in (LUMA, CHROMA)]).view(2, 8, 8).double()

# √8·DCT-II in units of 2⁻¹³, as libjpeg's accurate integer transform multiplies it out; its inverse is the transpose.
BITS = 13
EVEN = [
    [8192, 8192, 8192, 8192],
    [10703, 4433, -4433, -10703],
    [8192, -8192, -8192, 8192],
    [4433, -10704, 10704, -4433],
]
ODD = [[11363, 9633, 6437, 2260], [9633, -2259, -11362, -6436], [6437, -11362, 2261, 9633], [2260, -6436, 9633, -11363]]
DCT = torch.tensor(
    [row for even, odd in zip(EVEN, ODD, strict=True) for row in (even + even[::-1], odd + [-n for n in odd[::-1]])]
).double()

# BT.601 full range in units of 2⁻¹⁶.
TO_YCC = torch.tensor([[19595, 38470, 7471], [-11059, -21709, 32768], [32768, -27439, -5329]]).double()
TO_RGB = torch.tensor([[65536, 0, 91881], [65536, -22554, -46802], [65536, 116130, 0]]).double()


def jpeg(x: Tensor, quality: Tensor) -> Tensor:
    """Images [B,3,H,W] in [0,1] (clipped to it) saved at ``quality`` [B] (1 … 100, rounded), read again; 4:2:0 chroma.

    Bit for bit Pillow's result for widths above 4 px; in [0,1] on the 8-bit grid, in the type of ``x``.
    """
    height, width = x.shape[-2:]
    pixels = (x.clamp(0, 1).double() * 255).round()
    half = pixels.new_tensor([32768.0, (128 << 16) + 32767, (128 << 16) + 32767]).view(3, 1, 1)
    ycc = ((_mix(TO_YCC, pixels) + half) / 65536).floor()
    luma_table, chroma_table = _tables(quality.to(x.device)).unbind(1)
    luma = _code(_pad(ycc[:, :1], 8, 8), luma_table)[..., :height, :width]
    # libjpeg repeats the last column before it halves the chroma, but the last row after
    small = _pad(_halve(_pad(ycc[:, 1:], 2, 16)), 8, 8)
    small = _code(small, chroma_table)[..., : (height + 1) // 2, : (width + 1) // 2]
    chroma = _double(small)[..., :height, :width] - 128
    rgb = ((_mix(TO_RGB, torch.cat([luma, chroma], 1)) + 32768) / 65536).floor()
    return (rgb.clamp(0, 255) / 255).to(x.dtype)


def _tables(quality: Tensor) -> Tensor:
    """Quantisation steps [B,2,8,8] of luma and chroma."""
    quality = quality.double().round().clamp(1, 100)
    percent = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)
    tables = TABLES.to(quality.device) * percent.view(-1, 1, 1, 1)
    return ((tables + 50) / 100).floor().clamp(1, 255)


def _code(plane: Tensor, table: Tensor) -> Tensor:
    """Planes [B,C,H,W] of 0 … 255, sides multiples of 8 → their blocks transformed, quantised and back."""
    dct = DCT.to(plane.device)
    step = table.view(-1, 1, 1, 8, 1, 8)
    freq = _columns(dct, _rows(dct, plane - 128, BITS - 2), BITS + 2)  # 8 × the coefficients
    blocks = rearrange(freq, "b c (h y) (w x) -> b c h y w x", y=8, x=8)
    levels = (blocks.abs() / (8 * step) + 0.5).floor() * blocks.sign()
    freq = rearrange(levels * step, "b c h y w x -> b c (h y) (w x)")
    return (_rows(dct.T, _columns(dct.T, freq, BITS - 2), BITS + 5) + 128).clamp(0, 255)


def _rows(matrix: Tensor, plane: Tensor, shift: int) -> Tensor:
    """The transform of each run of 8 pixels in a row, in units of 2^(shift−13), rounded."""
    runs = rearrange(plane, "b c h (w x) -> b c h w x", x=8) @ matrix.T
    return rearrange(_rounded(runs, shift), "b c h w x -> b c h (w x)")


def _columns(matrix: Tensor, plane: Tensor, shift: int) -> Tensor:
    runs = matrix @ rearrange(plane, "b c (h y) w -> b c h y w", y=8)
    return rearrange(_rounded(runs, shift), "b c h y w -> b c (h y) w")


def _rounded(value: Tensor, shift: int) -> Tensor:
    return torch.floor(value / 2**shift + 0.5)


def _mix(matrix: Tensor, x: Tensor) -> Tensor:
    """The 3×3 ``matrix`` on the channels of [B,3,H,W]."""
    return (matrix.to(x.device) @ x.flatten(2)).view(x.shape)


def _pad(plane: Tensor, down: int, right: int) -> Tensor:
    """Repeats the last row and column up to multiples of ``down`` and ``right``."""
    return F.pad(plane, (0, -plane.shape[-1] % right, 0, -plane.shape[-2] % down), "replicate")


def _halve(plane: Tensor) -> Tensor:
    """Means of 2×2 pixels; ties are rounded down and up by turns along a row."""
    total = plane[..., ::2, ::2] + plane[..., ::2, 1::2] + plane[..., 1::2, ::2] + plane[..., 1::2, 1::2]
    return ((total + 1 + torch.arange(total.shape[-1], device=plane.device) % 2) / 4).floor()


def _double(plane: Tensor) -> Tensor:
    """Enlarged 2×2 with triangle weights 3:1; ties are rounded up and down by turns along a row."""
    tall = _between(plane.mT).mT
    wide = _between(tall)
    return ((wide + 8 - torch.arange(wide.shape[-1], device=plane.device) % 2) / 16).floor()


def _between(plane: Tensor) -> Tensor:
    """[…,W] → […,2·W]: 3 × each pixel plus its left, then its right neighbour."""
    before = torch.cat([plane[..., :1], plane[..., :-1]], -1)
    after = torch.cat([plane[..., 1:], plane[..., -1:]], -1)
    return torch.stack([3 * plane + before, 3 * plane + after], -1).flatten(-2)
