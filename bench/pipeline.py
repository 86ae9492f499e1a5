"""How long the way of one photo takes, stage by stage, against the bare diffusers calls on the same weights.

    python bench/pipeline.py [VARIANT] [--size 128] [--scale 4] [--runs 5]

The baseline runs encoder, denoiser and decoder of the unmerged base one after the other on the same padded pixels,
without file codec, resizing or colour fix: what is above 1 is what this project adds around the networks.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from model import OMGSRPipeline
from model.upscale import Op

MINI = Path(__file__).parent.parent / "model" / "weights" / "omgsr-s-mini"


def median_seconds(run: Callable[[], object], runs: int) -> float:
    seconds = []
    for _ in range(runs + 1):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])  # the first one warms up


def stage_seconds(pipe: OMGSRPipeline, photo: Image.Image, scale: float) -> dict[str, float]:
    spent: dict[str, float] = {}
    execute = pipe.execute

    def timed(ops: list[Op]) -> list[torch.Tensor]:
        began = time.perf_counter()
        results = execute(ops)
        name = type(ops[0]).__name__.lower()
        spent[name] = spent.get(name, 0.0) + time.perf_counter() - began
        return results

    pipe.execute = timed  # type: ignore[method-assign,assignment]
    pipe([photo], scale=scale)
    del pipe.execute
    return spent


@torch.no_grad()
def bare(pipe: OMGSRPipeline, x: torch.Tensor) -> torch.Tensor:
    z = pipe.vae.encode(x)
    return pipe.vae.decode(pipe.step(z, pipe.denoiser(z, pipe.mid_timestep)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("variant", nargs="?", type=Path, default=MINI)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--scale", type=float, default=4)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    pipe = OMGSRPipeline.from_variant(options.variant, dtype=torch.float32)
    photo = Image.effect_noise((options.size, options.size), 60).convert("RGB")
    (encode,) = next(pipe.upscale(torch.rand(3, options.size, options.size), scale=options.scale))
    whole = median_seconds(lambda: pipe([photo], scale=options.scale), options.runs)
    baseline = median_seconds(lambda: bare(pipe, encode.tensor[None]), options.runs)
    print(f"{options.variant.name}, {options.size}² × {options.scale:g}, {torch.get_num_threads()} threads, float32")
    print(f"whole way     {whole:.3f} s (median of {options.runs})")
    for stage, seconds in stage_seconds(pipe, photo, options.scale).items():
        print(f"  {stage:<10}  {seconds:.3f} s (one run)")
    print(f"bare networks {baseline:.3f} s, ratio {whole / baseline:.2f}")


if __name__ == "__main__":
    main()
