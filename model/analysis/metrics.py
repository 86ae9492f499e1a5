"""The paper's metrics by name, each a number for an image and its original, or the reason why there is none."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from model.analysis.niqe import niqe
from model.analysis.quality import efficientnet_lite0, feature_distance, psnr_y, ssim_y

Measure = Callable[[Tensor, Tensor], float]
"""An image and its original, both [1,3,H,W] in [-1,1] on the CPU, to a number."""
MeasureSet = Callable[[Sequence[Path], Sequence[Path]], float]
"""The files of a set's images and of its originals to a number."""


@dataclass(frozen=True)
class NotRun:
    """In a number's place: why there is none."""

    reason: str

    def __str__(self) -> str:
        return "not run"


Score = float | NotRun


@dataclass(frozen=True)
class Metric:
    """What a column means."""

    name: str
    title: str
    higher_is_better: bool
    decimals: int
    pyiqa: str | None = None
    """Its name in pyiqa, where pyiqa measures it."""

    @property
    def heading(self) -> str:
        """The title with the direction that is better."""
        return f"{self.title} {'↑' if self.higher_is_better else '↓'}"


# The names in pyiqa are those that published Real-ISR results are made with: LPIPS on AlexNet, MANIQA of PIPAL.
METRICS = (
    Metric("psnr", "PSNR", higher_is_better=True, decimals=2),
    Metric("ssim", "SSIM", higher_is_better=True, decimals=4),
    Metric("efflite0", "EffLite0", higher_is_better=False, decimals=4),
    Metric("lpips", "LPIPS", higher_is_better=False, decimals=4, pyiqa="lpips"),
    Metric("dists", "DISTS", higher_is_better=False, decimals=4, pyiqa="dists"),
    Metric("fid", "FID", higher_is_better=False, decimals=2, pyiqa="fid"),
    Metric("niqe", "NIQE", higher_is_better=False, decimals=4),
    Metric("musiq", "MUSIQ", higher_is_better=True, decimals=2, pyiqa="musiq"),
    Metric("maniqa", "MANIQA", higher_is_better=True, decimals=4, pyiqa="maniqa-pipal"),
    Metric("clipiqa", "CLIPIQA", higher_is_better=True, decimals=4, pyiqa="clipiqa"),
)
NO_ORIGINAL = {"musiq", "maniqa", "clipiqa"}
OF_SETS = {"fid"}


@dataclass(frozen=True)
class Judges:
    """The metrics that run here, and why the others do not."""

    images: dict[str, Measure]
    sets: dict[str, MeasureSet]
    missing: dict[str, NotRun]

    @property
    def missing_of_images(self) -> dict[str, NotRun]:
        """Those that would have judged each image."""
        return {name: reason for name, reason in self.missing.items() if name not in OF_SETS}

    @property
    def missing_of_set(self) -> dict[str, NotRun]:
        """Those that would have judged the set."""
        return {name: reason for name, reason in self.missing.items() if name in OF_SETS}


def find_judges(border: int, device: str = "cpu") -> Judges:
    """Make every metric that can be made here; `border` pixels are cut from each side for PSNR and SSIM.

    The deep ones of pyiqa run on `device`. It fetches the weights that it lacks; what it cannot fetch is missing.
    """
    images: dict[str, Measure] = {
        "psnr": lambda image, original: psnr_y(image, original, border).item(),
        "ssim": lambda image, original: ssim_y(image, original, border).item(),
        "niqe": lambda image, _original: niqe(image).item(),
    }
    sets: dict[str, MeasureSet] = {}
    missing: dict[str, NotRun] = {}
    try:
        backbone = efficientnet_lite0()
        images["efflite0"] = lambda image, original: feature_distance(backbone, image, original).item()
    except ImportError as error:
        missing["efflite0"] = NotRun(f"{error.name} is not installed (pip install 'omgsr-serve[eval]')")
    for metric in METRICS:
        if metric.pyiqa is None:
            continue
        judge = _from_pyiqa(metric.pyiqa, device)
        if isinstance(judge, NotRun):
            missing[metric.name] = judge
        elif metric.name in OF_SETS:
            sets[metric.name] = partial(_of_folders, judge)
        else:
            images[metric.name] = partial(_of_tensors, judge, device, metric.name not in NO_ORIGINAL)
    return Judges(images, sets, missing)


def _from_pyiqa(name: str, device: str) -> Any:
    """pyiqa's metric: a module of images [B,3,H,W] in [0,1] (FID: of two folders); pyiqa has no types."""
    try:
        pyiqa = import_module("pyiqa")
    except ImportError as error:
        return NotRun(f"{error.name} is not installed (pip install pyiqa: it brings torchvision)")
    try:
        return pyiqa.create_metric(name, device=torch.device(device))
    except Exception as error:  # noqa: BLE001 — weights come from many places, which fail in as many ways
        return NotRun(f"pyiqa cannot make {name!r}, its weights may be missing: {error}")


def _of_tensors(judge: Any, device: str, with_original: bool, image: Tensor, original: Tensor) -> float:
    both = [((each + 1) / 2).to(device) for each in (image, original)]
    return float(judge(*both if with_original else both[:1]))


def _of_folders(judge: Any, images: Sequence[Path], originals: Sequence[Path]) -> float:
    # Folders of links hold these files and nothing else, whatever lies beside them.
    with TemporaryDirectory(prefix="omgsr-fid-") as folder:
        for name, files in (("images", images), ("originals", originals)):
            (Path(folder) / name).mkdir()
            for number, file in enumerate(files):
                (Path(folder) / name / f"{number:06d}{file.suffix.lower()}").symlink_to(file.resolve())
        return float(judge(f"{folder}/images", f"{folder}/originals"))
