"""The ways from pixels to pixels that are timed, by name: diffusers' own, and ours with each optimisation."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from bench.bare import Bare
from bench.eager import Eager, compiled
from bench.ours import TOGGLES, Ours, pipeline
from model.networks import Stage

EAGER, COMPILED = "diffusers", "diffusers+compile"
DEFAULTS = {
    "cpu": (
        COMPILED, "channels-last", "folded", "folded+strips",
        "openvino", "folded+openvino", "folded+inductor", "folded+auto",
    ),
    "cuda": (
        COMPILED, "channels-last", "folded", "inductor", "folded+inductor", "folded+fp8+inductor",
    ),
}  # fmt: skip
"""What is timed against plain diffusers, by kind of device, unless ways are named."""


class Way(Protocol):
    """Each stage on a whole batch."""

    def encode(self, x: Tensor) -> Tensor:
        """Pixels to latents."""
        ...

    def predict(self, z_l: Tensor) -> Tensor:
        """One step (eq. 12, 13)."""
        ...

    def decode(self, z_p: Tensor) -> Tensor:
        """Latents to pixels."""
        ...


def check(names: Sequence[str]) -> None:
    """Raise ValueError for a way that there is not."""
    for name in set(names) - {EAGER, COMPILED}:
        if unknown := set(name.split("+")) - set(TOGGLES):
            raise ValueError(
                f"there is no way {name!r}: {', '.join(sorted(unknown))} is none of {', '.join(TOGGLES)} "
                f"(join them with +), and it is not {EAGER} or {COMPILED}"
            )


def build(name: str, bare: Bare) -> Way:
    """The way `name` around the weights of `bare`, which stay as they are.

    Raises what the optimisation raises where it cannot be had.
    """
    if name == EAGER:
        return Eager(bare)
    if name == COMPILED:
        return compiled(bare.sharing())
    return Ours(pipeline(bare.sharing(), name.split("+")))


def run(way: Way, stage: Stage, given: Tensor) -> Tensor:
    """One stage."""
    made: Tensor = getattr(way, stage)(given)
    return made


def through(way: Way, x: Tensor) -> Tensor:
    """All stages."""
    return way.decode(way.predict(way.encode(x)))


def counterpart(name: str, bare: Bare) -> Way:
    """The way `name` without data, to count on; a backend or a layout changes no FLOPs."""
    bare = bare.on_meta()
    return Ours(pipeline(bare, ["folded"])) if "folded" in name.split("+") else Eager(bare)
