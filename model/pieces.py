"""A model's weights, piece by piece: for one that is folded while it is read, and never whole in memory."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model.adapter import Deltas
from model.errors import ModelFilesError
from model.files import Tensors, empty_component, weight_files


class Pieces:
    """A diffusers model (`cls`) in a folder whose weights are read when they are asked for, the adapter merged.

    Raises ModelFilesError where weights or adapter do not fit the model's config.
    """

    def __init__(self, cls: Any, folder: Path, adapter: Path | None, dtype: torch.dtype, device: torch.device) -> None:
        self.model = empty_component(cls, folder)
        """On the meta device."""
        self._weights = Tensors(weight_files(folder))
        self._dtype, self._device = dtype, device
        for key, tensor in self.model.state_dict().items():
            found = self._weights[key].shape if key in self._weights else None
            if found != tensor.shape:
                raise ModelFilesError(
                    f"{folder}: {key} should be {list(tensor.shape)} and is {found and list(found)}: "
                    "fetch or copy the base again"
                )
        self._deltas = None if adapter is None else Deltas(self.model, adapter)

    def part(self, name: str) -> nn.Module:
        """The submodule `name` with its weights: summed with the adapter's in float32, rounded to `dtype` once."""
        part: nn.Module = self.model.get_submodule(name)
        part.load_state_dict({key: self._tensor(f"{name}.{key}") for key in part.state_dict()}, assign=True)
        return part

    def _tensor(self, key: str) -> Tensor:
        delta = self._deltas.of(key, self._device) if self._deltas else None
        if delta is None:
            # copied in any case: a tensor that stays a view of its file would keep the whole file mapped
            return self._weights[key].to(self._device, self._dtype, copy=True)
        return (self._weights[key].to(self._device).float() + delta).to(self._dtype)
