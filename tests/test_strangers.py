"""An image does not depend on whose images share its batches: the mini model in the worker's own engine."""

import math
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from torch import Tensor

from model.pipeline import OMGSRPipeline
from model.plan import BytesPerPixel, works
from model.upscale import Op
from service.worker import batching
from service.worker.batching import Policy
from service.worker.engine import Engine
from service.worker.image import Image

MINI = Path(__file__).parent.parent / "model" / "weights" / "omgsr-s-mini"
PHOTOS = sorted((Path(__file__).parent / "data" / "photos").glob("*.jpg"))[:3]
SIDES = [(32, 32), (32, 32), (48, 32), (64, 48)]
EACH = BytesPerPixel(encode=1, predict=1, decode=1)
ENDS_S = 120


class Counting:
    """The mini model, and the sizes of the batches that it was given."""

    def __init__(self) -> None:
        self.pipe = OMGSRPipeline.from_variant(MINI)
        self.sizes = Counter[int]()

    def execute(self, ops: Sequence[Op]) -> list[Tensor]:
        self.sizes[len(ops)] += 1
        return self.pipe.execute(ops)


def crops() -> list[Tensor]:
    found = []
    for path in PHOTOS:
        with Pillow.open(path) as opened:
            pixels = torch.from_numpy(np.asarray(opened.convert("RGB")).copy()).permute(2, 0, 1) / 255
        found += [pixels[:, :height, :width] for width, height in SIDES]
    return found


def upscaled(device: Counting, pixels: Sequence[Tensor], max_batch: int) -> list[Tensor]:
    engine = Engine({"m": device}, Policy(max_batch, 0.01), budget_bytes=10**12, max_batch_pixels=10**9)
    images = []
    for number, each in enumerate(pixels):
        ahead = works((each.shape[2], each.shape[1]), 4, device.pipe.geometry)
        images.append(Image("m", ahead, EACH, client=f"client {number}"))
        engine.submit(images[-1], lambda each=each: device.pipe.upscale(each, deep=True))
    thread = threading.Thread(target=engine.run)
    thread.start()
    try:
        return [image.outcome.result(ENDS_S) for image in images]
    finally:
        engine.stop()
        thread.join()


def test_the_mini_makes_the_same_image_alone_and_among_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        batching, "PATIENCE_S", math.inf
    )  # which ops share batches shall not depend on the machine's speed
    device, photos = Counting(), crops()
    together = upscaled(device, photos, max_batch=8)
    assert device.sizes[8] >= 2, "the images did share batches"
    device.sizes.clear()
    alone = [upscaled(device, [each], max_batch=1)[0] for each in photos]
    assert set(device.sizes) == {1}
    off = max(float((one - other).abs().max()) for one, other in zip(alone, together, strict=True))
    assert off <= 1e-4
