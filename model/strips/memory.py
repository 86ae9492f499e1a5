"""What strips take of the device, in numbers alone. Free of torch.

With W the image's width and r the rows of a strip (pixels), b bytes an element, C_l the channels of level l and E_l
those that enter it (level l is 1/2^l of the image's side; L the last one) and H the image's height, the peak of device
tensors is

    b · max( max_l (max(C_l, E_l) + C_l)·(r/2^l + 2)·W/2^l,   a strip with its halo, and what a layer makes of it
             max_l U_l,                                  the upsampler into level l, nearest×2 and a convolution
             2·C_L·(H/2^L + r/2^L)·W/2^L )               mid-block attention: the keys and values of the whole image

    U_l = C_(l+1)·((r/2^(l+1) + 2)·W/2^(l+1) + (r/2^l + 4)·W/2^l + r/2^l·W/2^l)

with U_l only where upsamplers are not folded into transposed convolutions. Only the attention's term knows the height.
Weights, and the workspace that a kernel takes for itself, come on top.
"""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Network:
    """What of an autoencoder decides the memory of its strips."""

    channels: tuple[int, ...]
    """Of each level, the image's own first (`block_out_channels`)."""
    itemsize: int
    """Bytes of an element."""
    transposed: bool
    """Upsamplers are transposed convolutions, not nearest×2 and a convolution."""
    attention: bool = True
    """The mid block has one."""

    @property
    def factor(self) -> int:
        """Pixels per latent, each way."""
        return int(2 ** (len(self.channels) - 1))

    def attention_bytes(self, width: int, height: int, rows: int) -> int:
        """Peak of the mid block's attention: the one term that grows with the image's height."""
        if not self.attention:
            return 0
        latents = (height // self.factor + rows // self.factor) * (width // self.factor)
        return 2 * self.channels[-1] * latents * self.itemsize


def encode_bytes(network: Network, width: int, height: int, rows: int) -> int:
    """Peak of device tensors while an image of width × height pixels is encoded in strips of `rows` pixels."""
    inputs = network.channels[:1] + network.channels[:-1]
    strips = _normed(network, inputs, width, rows)
    return max(network.attention_bytes(width, height, rows), *strips)


def decode_bytes(network: Network, width: int, height: int, rows: int) -> int:
    """Peak of device tensors while an image of width × height pixels is decoded in strips of `rows` pixels."""
    inputs = network.channels[1:] + network.channels[-1:]
    strips = [*_normed(network, inputs, width, rows)]
    if not network.transposed:
        strips += _upsampled(network, width, rows)
    return max(network.attention_bytes(width, height, rows), *strips)


def host_bytes(network: Network, width: int, height: int, rows: int) -> int:
    """At most what maps and result take of host memory: b·W·(H + 2r)·(3 + max_l max(C_entering, 2·C_l) / 4^l).

    A residual block keeps its input beside its branch; where the channels change, strips of it go as others come.
    """
    inputs = network.channels[1:] + network.channels[-1:]
    levels = enumerate(zip(inputs, network.channels, strict=True))
    widest = max(max(entering, 2 * own) / 4**level for level, (entering, own) in levels)
    return int((3 + widest) * width * (height + 2 * rows) * network.itemsize)


def _normed(network: Network, inputs: tuple[int, ...], width: int, rows: int) -> Iterator[int]:
    for level, (entering, own) in enumerate(zip(inputs, network.channels, strict=True)):
        yield (max(entering, own) + own) * ((rows >> level) + 2) * (width >> level) * network.itemsize


def _upsampled(network: Network, width: int, rows: int) -> Iterator[int]:
    for level, channels in enumerate(network.channels[1:]):
        wide, narrow, tall = width >> level, width >> level + 1, rows >> level
        pixels = ((rows >> level + 1) + 2) * narrow + (tall + 4) * wide + tall * wide
        yield channels * pixels * network.itemsize


def choose_rows(network: Network, width: int, height: int, free_bytes: int) -> int:
    """Rows of the fewest strips that fit in `free_bytes`, as equal as can be; what can be decoded can be encoded.

    Raises ValueError, with the bytes that are needed, where not even strips of one row of latents fit.
    """
    factor = network.factor
    steps = -(-height // factor)
    for count in range(1, steps + 1):
        rows = -(-steps // count) * factor
        if decode_bytes(network, width, height, rows) <= free_bytes:
            return rows
    needed = decode_bytes(network, width, height, factor)
    raise ValueError(
        f"an image of {width}×{height} pixels needs at least {needed / 2**20:,.0f} MiB of free device memory, also in "
        f"strips, and there are {free_bytes / 2**20:,.0f} MiB: free some memory, or ask for a smaller scale"
    )
