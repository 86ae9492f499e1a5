"""Whether the cost of an image is linear in its pixels, and whether a very large one stays within its memory.

    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 \\
        python -m bench.megapixels linear [--sides 1024 2048 4096] [--runs 1] [--out docs]
    python -m bench.megapixels large [--size 4096 3072] [--scale 2] [--limit-gb 16]

`linear` runs photos to square images of the sides given, and tells apart what is linear in pixels (the VAE without its
mid-block attention, resizing, colours), what is linear in tiles (the denoiser), and the attention, which is quadratic.
It runs as a worker on a CPU without OpenVINO does: with huge pages, and in exact strips.
`large` runs `omgsr upscale` in a process of its own that the kernel allows so much memory and no more.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bench.table import Table
from model import OMGSRPipeline
from model.pipeline import MAX_BATCH, to_pixels
from model.plan import tile_count
from model.upscale import Op, Predict, drive

ROOT = Path(__file__).parent.parent
MINI = ROOT / "model" / "weights" / "omgsr-s-mini"
PHOTO = ROOT / "tests" / "data" / "photos" / "raccoon.jpg"
SCALE = 4
NEAR = 1.2
"""Largest over smallest: what still counts as the same."""


@dataclass(frozen=True)
class Cost:
    """Seconds of one square image."""

    side: int
    tiles: int
    stages: Counter[str]
    """Of Encode, Predict and Decode."""
    whole: float
    attention: float
    """The softmax(QKᵀ)V of the VAE's two mid-blocks, within Encode and Decode."""
    peak_gb: float
    """The process's largest resident set so far."""

    @property
    def megapixels(self) -> float:
        return self.side**2 / 2**20

    @property
    def per_megapixel(self) -> float:
        """All but the denoiser and the attention."""
        return (self.whole - self.stages["Predict"] - self.attention) / self.megapixels

    @property
    def per_tile(self) -> float:
        return self.stages["Predict"] / self.tiles


class AttentionWatch(TorchFunctionMode):
    """Adds up the time that attention takes."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def __torch_function__(
        self, function: Callable[..., object], types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        began = time.perf_counter()
        result = function(*args, **(kwargs or {}))
        if function is F.scaled_dot_product_attention:
            self.seconds += time.perf_counter() - began
        return result


def photo(width: int, height: int) -> Image.Image:
    with Image.open(PHOTO) as image:
        return image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)


@torch.no_grad()
def cost(pipe: OMGSRPipeline, side: int) -> Cost:
    stages, watch = Counter[str](), AttentionWatch()

    def execute(ops: Sequence[Op]) -> list[Tensor]:
        began = time.perf_counter()
        with nullcontext() if isinstance(ops[0], Predict) else watch:
            results = pipe.execute(ops)
        stages[type(ops[0]).__name__] += time.perf_counter() - began
        return results

    size = (side // SCALE, side // SCALE)
    pixels, began = to_pixels(photo(*size)), time.perf_counter()
    drive([pipe.upscale(pixels, scale=SCALE)], execute, MAX_BATCH)
    whole = time.perf_counter() - began
    return Cost(side, tile_count(size, SCALE, pipe.geometry), stages, whole, watch.seconds, _peak_gb())


def _peak_gb(whose: int = resource.RUSAGE_SELF) -> float:
    return resource.getrusage(whose).ru_maxrss * 1024 / 1e9


def linear(variant: Path, sides: Sequence[int], runs: int, out: Path | None) -> Table:
    pipe = OMGSRPipeline.from_variant(variant, dtype=torch.float32, fold=True)
    pipe.vae.whole_pixels = 0
    cost(pipe, min(sides))  # what a first image makes is made
    costs = [min((cost(pipe, side) for _ in range(runs)), key=lambda each: each.whole) for side in sorted(sides)]
    table = Table(
        f"Cost by size ({variant.name}, {torch.get_num_threads()} threads, float32)",
        f"{_tunables()}python -m bench.megapixels linear --sides {' '.join(map(str, sides))} --runs {runs}",
        (
            "output",
            "MP",
            "s",
            "encode s",
            "predict s",
            "decode s",
            "of it attention s",
            "tiles",
            "s/tile",
            "s/MP*",
            "GB",
        ),
    )
    for each in costs:
        spent = (each.stages[name] for name in ("Encode", "Predict", "Decode"))
        figures = (each.megapixels, each.whole, *spent, each.attention, each.tiles)
        table.rows.append((f"{each.side}²", *figures, each.per_tile, each.per_megapixel, each.peak_gb))
    for name, figures in (
        ("seconds per megapixel* (* without denoiser and attention)", [each.per_megapixel for each in costs]),
        ("seconds per tile", [each.per_tile for each in costs]),
    ):
        spread = max(figures) / min(figures)
        table.claim(f"{name}: largest over smallest {spread:.2f}, at most {NEAR:g}", holds=spread <= NEAR)
    if out:
        plot(costs, out / "megapixels.svg")
    return table


def _tunables() -> str:
    told = os.environ.get("GLIBC_TUNABLES")
    return f"GLIBC_TUNABLES={told} " if told else ""


def plot(costs: Sequence[Cost], path: Path) -> None:
    figure = Figure(figsize=(9, 3), layout="constrained")
    by_pixels, by_tiles, by_square = figure.subplots(1, 3)
    megapixels = [each.megapixels for each in costs]
    by_pixels.plot(megapixels, [each.per_megapixel for each in costs], marker="o")
    by_pixels.set(title="VAE without attention, colours", ylabel="seconds per megapixel")
    by_tiles.plot(megapixels, [each.per_tile for each in costs], marker="o", color="tab:orange")
    by_tiles.set(title="denoiser, by number of tiles", ylabel="seconds per tile")
    for each in costs:
        place = {"xytext": (0, -8), "textcoords": "offset points", "ha": "center", "va": "top"}
        by_tiles.annotate(str(each.tiles), (each.megapixels, each.per_tile), **place)
    by_square.plot(megapixels, [each.attention for each in costs], marker="o", color="tab:green", label="measured")
    first = costs[0].attention / megapixels[0] ** 2
    by_square.plot(megapixels, [first * x**2 for x in megapixels], linestyle=":", color="grey", label="quadratic")
    by_square.set(title="mid-block attention", ylabel="seconds", yscale="log")
    by_square.legend()
    for axes in (by_pixels, by_tiles, by_square):
        axes.set(xlabel="megapixels of the output", xscale="log", xticks=megapixels)
        axes.set_xticks(megapixels, [f"{x:g}" for x in megapixels])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    for axes in (by_pixels, by_tiles):
        axes.set_ylim(0, 1.2 * axes.get_ylim()[1])
    figure.savefig(path)


def large(variant: Path, size: tuple[int, int], scale: float, limit_gb: float) -> Table:
    width, height = round(size[0] * scale), round(size[1] * scale)
    table = Table(
        f"{size[0]}×{size[1]} at scale {scale:g} ({variant.name}, CPU)",
        f"python -m bench.megapixels large --size {size[0]} {size[1]} --scale {scale:g} --limit-gb {limit_gb:g}",
        ("output", "MP", "s", "limit GB", "largest resident set GB"),
    )
    with tempfile.TemporaryDirectory(prefix="omgsr-") as folder:
        source, target = Path(folder, "in.jpg"), Path(folder, "out.png")
        photo(*size).save(source, quality=95)
        command = [sys.executable, "-m", "service.cli", "upscale", str(source), str(target)]
        began = time.perf_counter()
        # RLIMIT_DATA: every private writable page, which is what allocations are; a library's code does not count.
        ended = subprocess.run(
            [*command, "--models", str(variant), "--scale", str(scale)],
            env=os.environ | {"OMGSR_MAX_OUTPUT_PIXELS": str(width * height), "OMGSR_DEVICE": "cpu"},
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (int(limit_gb * 1e9),) * 2),
            check=False,
        )
        seconds, peak = time.perf_counter() - began, _peak_gb(resource.RUSAGE_CHILDREN)
        made = target.is_file() and ended.returncode == 0 and _size(target) == (width, height)
    table.rows.append((f"{width}×{height}", width * height / 2**20, seconds, limit_gb, peak))
    table.claim(f"finishes within {limit_gb:g} GB", holds=made)
    return table


def _size(path: Path) -> tuple[int, int]:
    Image.MAX_IMAGE_PIXELS = None
    with Image.open(path) as image:
        return image.size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("linear", "large"))
    parser.add_argument("--variant", type=Path, default=MINI)
    parser.add_argument("--sides", type=int, nargs="+", default=[1024, 2048, 4096], help="pixels of the output")
    parser.add_argument("--runs", type=int, default=1, help="the fastest of so many counts")
    parser.add_argument("--out", type=Path, help="folder for megapixels.svg")
    parser.add_argument("--size", type=int, nargs=2, default=[4096, 3072], help="width and height of the input")
    parser.add_argument("--scale", type=float, default=2)
    parser.add_argument("--limit-gb", type=float, default=16)
    options = parser.parse_args()
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)  # now, not after ten minutes of measuring
    if options.what == "linear":
        table = linear(options.variant, options.sides, options.runs, options.out)
    else:
        table = large(options.variant, tuple(options.size), options.scale, options.limit_gb)
    print(table.markdown())
    sys.exit(not table.holds)


if __name__ == "__main__":
    main()
