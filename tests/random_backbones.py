"""Files and folders of backbones with random weights, laid out as the real ones are."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import Dinov2Config, Dinov2Model, DINOv3ConvNextConfig, DINOv3ConvNextModel

from model.train.losses.mobilenet_v2 import mobilenet_v2_layers
from model.train.losses.vgg16 import vgg16_layers

VGG_CHANNELS = (64, 128, 256, 512, 512)


def features(layers: nn.Sequential) -> dict[str, Tensor]:
    """A state dict with torchvision's names, weights scaled so that activations neither vanish nor grow."""
    torch.manual_seed(0)
    for layer in layers.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    return {f"features.{name}": value for name, value in layers.state_dict().items()}


def vgg16_file(folder: Path) -> Path:
    path = folder / "vgg16.safetensors"
    save_file(features(vgg16_layers(nn.MaxPool2d(2))), path)
    return path


def lpips_heads_file(folder: Path) -> Path:
    """As the package lpips ships them, saved by torch."""
    path = folder / "vgg.pth"
    heads = {f"lin{n}.model.1.weight": torch.rand(1, width, 1, 1) for n, width in enumerate(VGG_CHANNELS)}
    torch.save(heads, path)
    return path


def dists_weights_file(folder: Path) -> Path:
    path = folder / "weights.pt"
    torch.save({name: torch.rand(1, 3 + sum(VGG_CHANNELS), 1, 1) for name in ("alpha", "beta")}, path)
    return path


def mobilenet_v2_file(folder: Path) -> Path:
    path = folder / "mobilenet_v2.pth"
    torch.save(features(mobilenet_v2_layers()) | {"classifier.1.bias": torch.zeros(1000)}, path)
    return path


def dinov2_folder(folder: Path) -> Path:
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=518, patch_size=14)
    Dinov2Model(config).save_pretrained(folder / "dinov2")
    return folder / "dinov2"


def dinov3_folder(folder: Path) -> Path:
    torch.manual_seed(0)
    config = DINOv3ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 2, 1], layer_scale_init_value=0.5)
    DINOv3ConvNextModel(config).save_pretrained(folder / "dinov3")
    return folder / "dinov3"
