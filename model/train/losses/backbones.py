"""What the backbones share: frozen networks that look at images [B,3,H,W] in [-1,1] and give feature maps.

``channels`` tells the maps' channels, largest map first. Each backbone loads from a local file or folder and raises
ModelFilesError, naming it and its source, if that is missing or holds something else. Gradients flow through to the
images, never into the weights.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from model.errors import ModelFilesError
from model.files import load_tensors

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load_weights(path: Path, source: str) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file or of a state dict that torch saved; ``source`` is where to get it.

    Raises ModelFilesError if it is missing or damaged.
    """
    if not path.is_file():
        raise ModelFilesError(f"{path} is missing: {source}")
    if path.suffix == ".safetensors":
        return load_tensors(path)
    try:
        # weights_only: the file is a pickle from elsewhere, and only tensors may come out of it.
        tensors: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ModelFilesError(f"{path} is damaged or no state dict ({error}): {source}") from error
    return tensors


def restore(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """All of ``module``'s state from ``tensors``, which may hold more; raises ModelFilesError if it is not there."""
    wanted = {name for name in module.state_dict() if not name.endswith("num_batches_tracked")}
    if missing := sorted(wanted - tensors.keys()):
        raise ModelFilesError(f"{path} lacks {missing[0]} and {len(missing) - 1} more: it is of another network")
    try:
        module.load_state_dict({name: tensors[name] for name in wanted}, strict=False)
    except RuntimeError as error:
        raise ModelFilesError(f"{path} is of another network: {error}") from error


class ImageNetNorm(nn.Module):
    """Images in [-1,1] → ImageNet's mean 0 and deviation 1, in the module's dtype.

    LPIPS' scaling layer, (x − (−.030, −.088, −.188)) / (.458, .448, .450), is the same.
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """[B,3,H,W] → the same."""
        return ((images.to(self.mean.dtype) + 1) / 2 - self.mean) / self.std
