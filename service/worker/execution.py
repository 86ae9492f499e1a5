"""A batch on the device, and what is done when it fails: no one's fault is another's."""

from collections.abc import Sequence

import structlog
import torch
from torch import Tensor

from model.upscale import Op
from service.errors import OutOfMemory, Unavailable
from service.worker.image import Device

_OUT_OF_MEMORY = ("out of memory", "DefaultCPUAllocator", "not enough memory")
_log = structlog.get_logger(__name__)


class DeviceLost(Unavailable):
    """The device, or this process's hold on it, is of no more use: only a new process can help."""

    title = "Device lost"
    advice = "The worker ends and is started again; its images go back in line."


def run_batch(device: Device, ops: Sequence[Op]) -> list[Tensor | Exception]:
    """The results of ops of equal key, in their order, or the error of each that has none.

    A batch that runs out of memory is run again in halves, down to single ops (OutOfMemory); one that fails in another
    way op by op, so that only the culprit fails. Raises DeviceLost when the device itself is in error.
    """
    outcome = _attempt(device, ops)
    if not isinstance(outcome, Exception):
        return outcome
    short = isinstance(outcome, OutOfMemory)
    if short and torch.cuda.is_available():
        torch.cuda.empty_cache()
    if len(ops) == 1:
        return [outcome]
    size = len(ops) // 2 if short else 1
    _log.warning("batch failed, running smaller ones", size=len(ops), smaller=size, error=repr(outcome))
    parts = [ops[start : start + size] for start in range(0, len(ops), size)]
    return [result for part in parts for result in run_batch(device, part)]


def _attempt(device: Device, ops: Sequence[Op]) -> list[Tensor | Exception] | Exception:
    try:
        results: list[Tensor | Exception] = list(device.execute(ops))
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # times and errors belong to this batch, not to a later one
    except Exception as error:  # noqa: BLE001 — whatever it is, it is the image's fate, not the worker's
        return told(error)
    return results


def told(error: Exception) -> Exception:
    """The error as it is known here: OutOfMemory where it says so. Raises DeviceLost where the device is at fault."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or _says_out_of_memory(error):
        return OutOfMemory("The device's memory is not enough for this image.")  # without the frames that hold tensors
    if isinstance(error, torch.AcceleratorError):
        raise DeviceLost(f"The device is in error: {error}") from error
    return error


def _says_out_of_memory(error: Exception) -> bool:
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
