"""Pixels between host and GPU: through pinned memory, on a stream of their own, beside the batches at work."""

from functools import cache

import torch
from torch import Tensor


def upload(pixels: Tensor, device: torch.device) -> Tensor:
    """`pixels` on the device: whole for all work that is queued there from now on."""
    if device.type != "cuda" or pixels.is_cuda:
        return pixels.to(device)
    aside, at_work = _aside(device), torch.cuda.current_stream(device)
    with torch.cuda.stream(aside):
        there = pixels.pin_memory().to(device, non_blocking=True)
    at_work.wait_stream(aside)
    there.record_stream(at_work)
    return there


def download(pixels: Tensor) -> Tensor:
    """`pixels` in host memory, once the work that makes them is done."""
    if not pixels.is_cuda:
        return pixels
    aside = _aside(pixels.device)
    aside.wait_stream(torch.cuda.current_stream(pixels.device))
    here = torch.empty(pixels.shape, dtype=pixels.dtype, pin_memory=True)
    with torch.cuda.stream(aside):
        here.copy_(pixels, non_blocking=True)
    aside.synchronize()
    return here


@cache
def _aside(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
