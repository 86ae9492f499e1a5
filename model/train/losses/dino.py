"""Feature maps of DINOv2 and DINOv3, the discriminator's backbones in the paper and in the authors' later release."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Dinov2Model, DINOv3ConvNextModel

from model.errors import ModelFilesError
from model.train.losses.backbones import ImageNetNorm

DINOV2_SOURCE = "hf download facebook/dinov2-base --local-dir …"
DINOV3_SOURCE = "hf download facebook/dinov3-convnext-tiny-pretrain-lvd1689m --local-dir … (gated: accept its licence)"


def load_transformer(cls: Any, folder: Path, source: str) -> Any:
    """The transformers model ``cls`` from its folder, frozen; a folder of another kind of model is refused."""
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise ModelFilesError(f"{folder / name} is missing: {source}")
    # transformers would load another network's folder with a warning, and fill what it lacks with random numbers
    kind = json.loads((folder / "config.json").read_text()).get("model_type")
    if kind != cls.config_class.model_type:
        raise ModelFilesError(f"{folder} holds a model of type {kind}, not {cls.config_class.model_type}: {source}")
    try:
        model, report = cls.from_pretrained(folder, local_files_only=True, dtype="auto", output_loading_info=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelFilesError(f"{folder} does not load: {error}") from error
    if missing := sorted(report["missing_keys"]):
        raise ModelFilesError(
            f"{folder / 'model.safetensors'} lacks {missing[0]} and {len(missing) - 1} more: {source}"
        )
    return model.eval().requires_grad_(False)


class DINOv2Maps(nn.Module):
    """Patch tokens after the blocks ``levels`` (1 is the first) of a DINOv2 ViT, layer-normed: [B,C,H/14,W/14] each.

    ``folder`` is what ``facebook/dinov2-base`` holds. The sides are enlarged to the next multiple of the patch,
    bilinearly: 512 becomes 518, the size DINOv2 was trained at.
    """

    def __init__(self, folder: Path, levels: Sequence[int] = (3, 6, 9, 12)) -> None:
        super().__init__()
        self.norm = ImageNetNorm()
        self.model = load_transformer(Dinov2Model, folder, DINOV2_SOURCE)
        self.eval()
        depth = self.model.config.num_hidden_layers
        if not all(1 <= level <= depth for level in levels):
            raise ValueError(f"levels {tuple(levels)}: {folder} has blocks 1 to {depth}")
        self.levels = tuple(levels)
        self.channels: tuple[int, ...] = (self.model.config.hidden_size,) * len(self.levels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """The maps, first block first."""
        patch = self.model.config.patch_size
        rows, columns = (-(-side // patch) for side in images.shape[-2:])
        x = self.norm(images)
        if x.shape[-2:] != (rows * patch, columns * patch):
            x = F.interpolate(x, (rows * patch, columns * patch), mode="bilinear")
        states = self.model(x, output_hidden_states=True).hidden_states
        tokens = [self.model.layernorm(states[level])[:, 1:] for level in self.levels]  # without the class token
        return [token.transpose(1, 2).unflatten(2, (rows, columns)) for token in tokens]


class DINOv3ConvNextMaps(nn.Module):
    """Outputs of the stages of a DINOv3 ConvNeXt: [B,C_n,H/2ⁿ,W/2ⁿ], n = 2…5.

    ``folder`` is what ``facebook/dinov3-convnext-tiny-pretrain-lvd1689m`` holds.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.norm = ImageNetNorm()
        self.model = load_transformer(DINOv3ConvNextModel, folder, DINOV3_SOURCE)
        self.eval()
        self.channels: tuple[int, ...] = tuple(self.model.config.hidden_sizes)

    def forward(self, images: Tensor) -> list[Tensor]:
        """The maps, largest first; sides of at least 32 pixels."""
        states = self.model(self.norm(images), output_hidden_states=True).hidden_states
        return list(states[1:])  # the first is the image
