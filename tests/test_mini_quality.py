"""The bundled mini is real: better than bicubic on photos that it was never trained on, and its denoiser matters."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from model import OMGSRPipeline
from model.analysis.quality import efficientnet_lite0, feature_distance, psnr_y, ssim_y

ROOT = Path(__file__).parent.parent
PHOTOS = ("camera", "coffee", "dandelions", "hopper", "raccoon", "rocket")
Judge = Callable[[list[Image.Image]], dict[str, float]]


def read(name: str) -> Image.Image:
    with Image.open(ROOT / "tests" / "data" / "photos" / name) as image:
        return image.convert("RGB")


def tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1


class SilentDenoiser:
    """Predicts zero noise, so that z_P = z_L / √ᾱ: what the encoder alone can do."""

    def __init__(self, denoiser: object) -> None:
        self.denoiser = denoiser

    def __getattr__(self, name: str) -> object:
        return getattr(self.denoiser, name)

    def __call__(self, z_l: Tensor, _t: int) -> Tensor:
        return torch.zeros_like(z_l)


@pytest.fixture(scope="module")
def small() -> list[Image.Image]:
    return [read(f"{name}_x4.png") for name in PHOTOS]


@pytest.fixture(scope="module")
def judge() -> Judge:
    """Mean PSNR-Y, SSIM-Y and EfficientNet-Lite0 distance to the six originals."""
    backbone, originals = efficientnet_lite0(), [tensor(read(f"{name}.jpg")) for name in PHOTOS]

    @torch.no_grad()
    def scores(images: list[Image.Image]) -> dict[str, float]:
        pairs = list(zip(map(tensor, images), originals, strict=True))
        return {
            "psnr": float(np.mean([psnr_y(a, b).item() for a, b in pairs])),
            "ssim": float(np.mean([ssim_y(a, b).item() for a, b in pairs])),
            "distance": float(np.mean([feature_distance(backbone, a, b).item() for a, b in pairs])),
        }

    return scores


@pytest.fixture(scope="module")
def pipe() -> OMGSRPipeline:
    return OMGSRPipeline.from_variant(ROOT / "model" / "weights" / "omgsr-s-mini")


@pytest.fixture(scope="module")
def mini(pipe: OMGSRPipeline, small: list[Image.Image], judge: Judge) -> dict[str, float]:
    return judge(pipe(small, scale=4))


@pytest.fixture(scope="module")
def bicubic(small: list[Image.Image], judge: Judge) -> dict[str, float]:
    return judge([photo.resize((photo.width * 4, photo.height * 4), Image.Resampling.BICUBIC) for photo in small])


def test_keeps_at_least_the_fidelity_of_bicubic(mini: dict[str, float], bicubic: dict[str, float]) -> None:
    assert mini["psnr"] >= bicubic["psnr"]
    assert mini["ssim"] >= bicubic["ssim"] + 0.01


def test_looks_closer_to_the_original_for_a_backbone_it_was_not_trained_on(
    mini: dict[str, float], bicubic: dict[str, float]
) -> None:
    assert mini["distance"] <= 0.90 * bicubic["distance"]


def test_the_prediction_matters(
    pipe: OMGSRPipeline, small: list[Image.Image], judge: Judge, mini: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipe, "denoiser", SilentDenoiser(pipe.denoiser))
    assert judge(pipe(small, scale=4))["distance"] >= 1.05 * mini["distance"]


def test_bundle_is_small() -> None:
    files = [path for path in (ROOT / "model" / "weights").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12_000_000
