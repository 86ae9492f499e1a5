"""What fits on a card: weights and activations of the full-size models, counted on tensors without data.

    python -m bench.budget [--out docs/sizing.md]

Weights are the bytes of every tensor that a folded pipeline holds. Activations are the most that is alive at once in a
stage, storage by storage, with attention in one piece as on a GPU, times MARGIN for what kernels and the allocator
take. A worker on a GPU measures the same at its start, and reckons from there on as this page does (model/plan.py).
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from bench.bare import Model, size_of, tensors_of
from bench.cli import BEGIN, END
from bench.count import FUSED
from bench.counted import batch_of, whole
from bench.live import Live
from bench.ours import Ours, pipeline
from bench.table import Cell, Table
from bench.ways import run
from model.networks import STAGES
from model.plan import BytesPerPixel, Geometry, held_bytes, lone_bytes, peak_bytes, works
from model.quantize import quantize, stored_bytes
from service.worker.batching import BATCH_SIZES
from service.worker.memory import MARGIN, allow_strips

COMMAND = "python -m bench.budget"
CARDS_GB = (24, 48, 80)
SHARE = 0.9
"""Of a card's memory: what a worker takes (service/worker/memory.py)."""
GEOMETRIES = {
    "S-512": Geometry(512, 64, 32, 8),
    "F-512": Geometry(512, 64, 32, 16),
    "F-1k": Geometry(1024, 128, 64, 16),
}
LOADS: dict[str, tuple[str, ...]] = {
    "S-512": ("S-512",), "F-1k": ("F-1k",), "S-512 + F-1k": ("S-512", "F-1k"),
    "S-512 + F-512 + F-1k": ("S-512", "F-512", "F-1k"),
}  # fmt: skip


@dataclass(frozen=True)
class Counted:
    """Of a model."""

    weights: int
    int8_weights: int
    each: BytesPerPixel
    pipe: Any


class Peak(Live):
    """The same, of what a GPU runs: fused kernels whole, other operators as what they are made of."""

    def _call(self, func: Any, args: Any, kwargs: Any) -> Any:
        if fused := FUSED.get(func.overloadpacket):
            return fused(*args)
        with self:
            if (made_of_others := func.decompose(*args, **kwargs)) is not NotImplemented:
                return made_of_others
        return super()._call(func, args, kwargs)


@cache
def counted(variant: str) -> Counted:
    """Weights, and what an image of the native size takes while it runs, by stage."""
    model: Model = "s" if variant.startswith("S") else "f"
    side = GEOMETRIES[variant].process_size
    pipe = pipeline(whole(model), ["folded"])
    peaks = {}
    for stage in STAGES:
        given = batch_of(model, stage, side)
        with torch.inference_mode():
            run(Ours(pipe), stage, given)  # what is kept for a size is no part of the next image's
            with Peak([*tensors_of(pipe.vae, pipe.denoiser.network), given]) as live:
                run(Ours(pipe), stage, given)
        peaks[stage] = MARGIN * live.peak / side**2
    weights = size_of(tensors_of(pipe.denoiser.network)) + size_of(tensors_of(pipe.vae))
    before = stored_bytes(pipe.denoiser.network)
    each = BytesPerPixel(peaks["encode"], peaks["predict"], peaks["decode"])
    quantize(pipe, "int8")
    return Counted(weights, weights - before + stored_bytes(pipe.denoiser.network), each, pipe)


def models_table(variants: Sequence[str] = tuple(GEOMETRIES)) -> Table:
    """Of each model by itself."""
    table = Table(
        "What a model takes",
        COMMAND,
        ["variant", "weights bf16 (GB)", "int8 (GB)", *(f"{stage} (bytes a pixel)" for stage in STAGES)],
    )
    for variant in variants:
        found = counted(variant)
        weights = (f"{size / 1e9:.2f}" for size in (found.weights, found.int8_weights))
        table.rows.append([variant, *weights, *(f"{getattr(found.each, stage):,.0f}" for stage in STAGES)])
    return table


def cards_table(loads: Mapping[str, tuple[str, ...]] = LOADS) -> Table:
    """Of the models that a worker holds together, by card."""
    table = Table(
        "What fits on a card",
        COMMAND,
        [
            "card (GB)", "models", "denoisers", "weights (GB)", "left (GB)",
            *("whole (megapixels)", "in strips (megapixels)", "tiles at once", "native images decoded at once"),
        ],
    )  # fmt: skip
    for card in CARDS_GB:
        for name, variants in loads.items():
            for kind in ("bf16", "int8"):
                table.rows.append([str(card), name, kind, *_fit(variants, kind, int(SHARE * card * 1e9))])
    return table


def _fit(variants: Sequence[str], kind: str, budget: int) -> list[Cell]:
    """Weights, what is left, and by variant what it is enough for."""
    models = [counted(variant) for variant in variants]
    weights = sum(model.weights if kind == "bf16" else model.int8_weights for model in models)
    left = budget - weights
    sizes: list[Cell] = [f"{weights / 1e9:.1f}", f"{left / 1e9:.1f}"]
    if any(_native(variant) > left for variant in variants):
        return [*sizes, *["does not fit"] * 4]
    columns = [_of_variant(variant, left) for variant in variants]
    return sizes + [" · ".join(figures) for figures in zip(*columns, strict=True)]


def _native(variant: str) -> int:
    """Bytes that one image of the native size takes."""
    geometry = GEOMETRIES[variant]
    return lone_bytes(works((geometry.process_size,) * 2, 1, geometry), counted(variant).each)


def _of_variant(variant: str, left: int) -> tuple[str, str, str, str]:
    found, geometry = counted(variant), GEOMETRIES[variant]
    each = allow_strips(found.pipe.vae, found.each, left, compiled=True)
    planned = works((geometry.process_size,) * 2, 1, geometry)
    at_once = []
    for work in planned[1:]:
        fits = (n for n in BATCH_SIZES if n * held_bytes(planned) + peak_bytes(work, n, found.each) <= left)
        at_once.append(str(next(fits, 1)))
    return (f"{each.whole_pixels / 1e6:.1f}", f"{_largest(variant, each, left) / 1e6:.0f}", at_once[0], at_once[1])


def _largest(variant: str, each: BytesPerPixel, left: int) -> int:
    """Pixels of the largest square image that can be made at all."""
    geometry, low, high = GEOMETRIES[variant], 1, 2**12
    while low < high:  # in steps of the network's own multiple
        side = (low + high + 1) // 2
        fits = lone_bytes(works((side * geometry.multiple,) * 2, 1, geometry), each) <= left
        low, high = (side, high) if fits else (low, side - 1)
    return (low * geometry.multiple) ** 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="a page to write into, between its marks")
    out: Path | None = parser.parse_args().out
    text = "\n".join(table.markdown("###") for table in (models_table(), cards_table()))
    print(text)
    if out is not None:
        before, begin, rest = out.read_text(encoding="utf-8").partition(BEGIN)
        out.write_text(f"{before}{begin}\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
