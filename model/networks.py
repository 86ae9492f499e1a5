"""A pipeline's three networks as plain functions: what an execution backend replaces, and nothing else."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Network = Callable[[Tensor], Tensor]
Stage = Literal["encode", "predict", "decode"]
STAGES: tuple[Stage, ...] = ("encode", "predict", "decode")


@dataclass(frozen=True)
class Networks:
    """Batches in, batches out, float32; any batch size, and any height and width that the variant allows."""

    encode: Network
    """Pixels [B,3,H,W] in [-1,1] → scaled latents [B,C,H/8,W/8]."""
    predict: Network
    """Latents [B,C,h,w] → the prediction at the mid-timestep, same shape."""
    decode: Network
    """Scaled latents [B,C,h,w] → pixels [B,3,8h,8w] around [-1,1], not clamped."""
    rest: Callable[[], None] = lambda: None
    """Gives back the memory that runs leave behind for the next; on the thread that runs them."""

    def __getitem__(self, stage: Stage) -> Network:
        """The network of a stage."""
        network: Network = getattr(self, stage)
        return network
