"""The device's memory: what there is, and what networks take of it while they run."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import psutil
import torch
from torch import Tensor, nn

from model.plan import STRIP_PIXELS, BytesPerPixel, Geometry, lone_bytes, works
from model.quantize import stored_bytes
from model.strips.memory import host_bytes
from model.strips.strips import network_of
from model.vae import VAE
from service.errors import Unavailable

LIVE = 2
"""A layer's input and output, and as much again: a residual's other branch, a kernel's own layout of both."""
MARGIN = 1.25
"""Allocators round up and leave gaps."""
WHOLE_SHARE = 0.75
"""Of the free memory: the rest is for what images hold, and for what of strips grows with the image."""
PAGES_SHARE = 1.1
"""Of the maps' memory: strips of several sizes leave gaps in their pages."""
ADVICE = "Serve fewer models, raise OMGSR_MAX_DEVICE_BYTES, or use a device with more memory."


def free_bytes(device: torch.device) -> int:
    """What a worker may use, models and all: on a GPU nine tenths of what is free, on a CPU half of it.

    Workers that share a machine do not know of each other: give each its part (OMGSR_MAX_DEVICE_BYTES).
    """
    if device.type == "cuda":
        return int(0.9 * torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available // 2)


class Room:
    """The device's budget while models move in, one after the other."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self.left = budget

    def settle(self, name: str, weights: int) -> None:
        """Take a model's weights in. Raises Unavailable, with the numbers, when they do not fit."""
        if weights > self.left:
            raise Unavailable(
                f"The model {name!r} does not fit: its weights take {_mib(weights)}, and of "
                f"{_mib(self._budget)} there are {_mib(self.left)} left.",
                ADVICE,
            )
        self.left -= weights

    def check_native(self, name: str, geometry: Geometry, each: BytesPerPixel) -> None:
        """Raise Unavailable when not even one image of the process size fits beside the models."""
        side = geometry.process_size
        needed = lone_bytes(works((side, side), 1, geometry), each)
        if needed > self.left:
            raise Unavailable(
                f"The model {name!r} does not fit: one image of {side}×{side} pixels takes {_mib(needed)}, and of "
                f"{_mib(self._budget)} the models' weights leave {_mib(self.left)}.",
                ADVICE,
            )


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"


def allow_strips(vae: VAE, each: BytesPerPixel, free: int, *, compiled: bool) -> BytesPerPixel:
    """Let images whose VAE would take more than WHOLE_SHARE of `free` go through it in strips, and say what that takes.

    `compiled`: a backend runs the VAE. A CPU without one takes every image in strips: torch is faster in them.
    Maps of strips lie in host memory; where the device is the CPU, that is the device's own.
    """
    network, side = network_of(vae.autoencoder), 8192
    on_cpu = vae.autoencoder.device.type == "cpu"
    limit = int(WHOLE_SHARE * free / max(each.encode, each.decode))
    vae.whole_pixels, vae.strip_pixels = limit, limit // 8
    if on_cpu and not compiled:
        vae.whole_pixels, vae.strip_pixels = 0, min(STRIP_PIXELS, limit // 4)
    rows = vae.strip_rows(side)
    striped = network.attention_bytes(side, side, rows)
    if on_cpu:
        striped += int(PAGES_SHARE * host_bytes(network, side, side, rows))
    return replace(each, whole_pixels=vae.whole_pixels, strip_pixels=vae.strip_pixels, striped=striped / side**2)


def weight_bytes(networks: Iterable[nn.Module]) -> int:
    """Of parameters and buffers, as they are stored."""
    return sum(stored_bytes(network) for network in networks)


def peak_bytes_of(run: Callable[[], object], networks: Iterable[nn.Module], device: torch.device) -> int:
    """Device memory that `run` takes at its peak beyond what is taken now.

    Measured on CUDA. Elsewhere it is reckoned: LIVE times the largest sum of a layer's input and output.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return int(MARGIN * (torch.cuda.max_memory_allocated(device) - before))
    with _layers_watched(networks) as seen:
        run()
    return int(MARGIN * LIVE * max(seen, default=0))


@contextmanager
def _layers_watched(networks: Iterable[nn.Module]) -> Iterator[list[int]]:
    seen: list[int] = []

    def note(_: nn.Module, given: tuple[object, ...], made: object) -> None:
        seen.append(sum(each.nbytes for each in (*given, made) if isinstance(each, Tensor)))

    layers = [module for network in networks for module in network.modules() if next(module.children(), None) is None]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
