"""The mini in int8, weights and activations, by OpenVINO and NNCF: how much faster, and how far off on real photos.

    pip install nncf
    python -m bench.int8 [--variant model/weights/omgsr-s-mini] [--runs 5] [--out docs/int8.md]

Calibrated on half of the photos of tests/data/photos, measured on the other half. It is no way that is served: what
this says decides whether it should be.
"""

import argparse
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import openvino
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from bench.bare import MINI, Bare, bare_of
from bench.eager import Eager
from bench.ours import Ours, pipeline
from bench.speed import Pair, Timing, best_threads, machine, once
from bench.table import Table
from bench.ways import Way, through
from model.analysis.quality import psnr
from model.backend.openvino import MODEL, Compiled, convert
from model.networks import STAGES, Networks, Stage
from model.pipeline import OMGSRPipeline, to_pixels

PHOTOS = Path(__file__).parent.parent / "tests" / "data" / "photos"
SIDE = 512


def photos() -> list[Tensor]:
    """Pixels [1,3,512,512] in [-1,1]: the damaged test photos, enlarged as the pipeline enlarges its input."""
    found = []
    for path in sorted(PHOTOS.glob("*_x4.png")):
        with Image.open(path) as image:
            found.append(to_pixels(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC))[None] * 2 - 1)
    return found


def quantized(pipe: OMGSRPipeline, seen: Sequence[Tensor]) -> dict[Stage, Compiled]:
    """The three networks in int8, calibrated on what they are given when `pipe` makes the photos `seen`."""
    import nncf  # after the backend, which keeps it from telling its makers of each use

    core = openvino.Core()
    with tempfile.TemporaryDirectory() as folder:
        floats = convert(pipe, SIDE // 8, Path(folder))
        inputs: dict[Stage, list[Tensor]] = {"encode": list(seen), "predict": [], "decode": []}
        for pixels in seen:
            z_l = floats.encode(pixels)
            inputs["predict"].append(z_l)
            inputs["decode"].append(pipe.step(z_l, floats.predict(z_l)))
        made = {}
        for stage in STAGES:
            (path,) = (Path(folder) / "openvino").glob(f"{stage}-*/{MODEL}")
            data = nncf.Dataset([each.numpy() for each in inputs[stage]])
            made[stage] = Compiled(core, nncf.quantize(core.read_model(path), data, subset_size=len(seen)))
        return made


def timed(name: str, plain: Way, way: Way, x: Tensor, runs: int) -> Pair:
    """In turns, after a warm-up of both."""
    pair = Pair(name, Timing(), Timing())
    for turn in range(runs + 1):
        once(plain, x, pair.plain if turn else Timing())
        once(way, x, pair.timing if turn else Timing())
    return pair


def measure(variant: Path, runs: int) -> Table:
    bare: Bare = bare_of(OMGSRPipeline.from_variant(variant, dtype=torch.float32))
    every = photos()
    torch.set_num_threads(best_threads(bare, every[0]))
    fast = pipeline(bare.sharing(), ["folded"])
    int8 = quantized(fast, every[::2])
    floats = convert(fast, SIDE // 8, None)
    ways: Mapping[str, Networks] = {
        "float32": floats,
        **{
            f"{stage} in int8": Networks(**{s: (int8 if s == stage else floats)[s] for s in STAGES}) for stage in STAGES
        },
        "all in int8": Networks(**int8),
    }
    table = Table(
        f"int8 by NNCF and OpenVINO ({variant.name}, {SIDE} px)",
        f"python -m bench.int8 --runs {runs}",
        ("OpenVINO, folded", "× plain diffusers", "× OpenVINO in float32", "PSNR dB, mean", "PSNR dB, least"),
        notes=[machine(torch.device("cpu")), "PSNR on photos that it was not calibrated on, against plain diffusers"],
    )
    plain = Eager(bare)
    expected = [through(plain, x) for x in every[1::2]]
    unit = 0.0
    for name, networks in ways.items():
        fast.networks = networks
        ratio = timed(name, plain, Ours(fast), every[1], runs).ratio
        unit = unit or ratio
        found = [psnr(through(Ours(fast), x), y) for x, y in zip(every[1::2], expected, strict=True)]
        figures = (ratio, ratio / unit, statistics.mean(found), min(found))
        table.rows.append((name, *(f"{figure:.2f}" for figure in figures)))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", type=Path, default=MINI)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    table = measure(given.variant, given.runs)
    table.show(Console())
    if given.out:
        given.out.write_text(table.markdown("###"))


if __name__ == "__main__":
    main()
