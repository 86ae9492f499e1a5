"""The counted tables of docs/performance.md: full-size models, plain against ours, floors and plans for 2k."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from torch import Tensor

from bench.bare import TEXT_TOKENS, Bare, Model, load, size_of, tensors_of
from bench.count import Cost, counted, total
from bench.eager import Eager
from bench.ours import Ours, pipeline
from bench.table import Cell, Table
from bench.ways import run
from model.networks import STAGES, Stage
from model.plan import LATENT, Geometry, works

COMMAND = "omgsr bench --count"
DTYPE = torch.bfloat16
L40S_FLOPS = 362e12
"""Dense bf16 matrix products a second that NVIDIA states for an L40S, the paper's GPU."""
LATENT_CHANNELS = {"s": 4, "f": 16}
PAPER_SECONDS = {"S@512": 0.0648, "F@512": 0.2066, "F@1k": 0.7947}


@dataclass(frozen=True)
class Case:
    """An image size of a model."""

    name: str
    model: Model
    side: int
    text_tokens: int = TEXT_TOKENS
    """Of F's prompt, in our way; the plain way always has 512."""

    @property
    def plain(self) -> dict[Stage, Cost]:
        """By stage, of diffusers' own modules."""
        return {stage: plain_cost(self.model, stage, self.side) for stage in STAGES}

    @property
    def ours(self) -> dict[Stage, Cost]:
        """By stage, of the folded pipeline."""
        return {stage: our_cost(self.model, stage, self.side, self.text_tokens) for stage in STAGES}


S_512, F_512, F_1K = Case("S@512", "s", 512), Case("F@512", "f", 512), Case("F@1k", "f", 1024)
SHORT = Case("F@512, 64 text tokens", "f", 512, 64), Case("F@1k, 64 text tokens", "f", 1024, 64)
CASES = (S_512, F_512, F_1K, *SHORT)
PLANS = {"nine tiles of 1024": Geometry(1024, 128, 64, 16), "four tiles of 1152": Geometry(1024, 144, 32, 16)}


@cache
def plain(model: Model) -> Eager:
    """Without data."""
    return Eager(whole(model))


@cache
def ours(model: Model, text_tokens: int = TEXT_TOKENS) -> Ours:
    """Without data."""
    return Ours(pipeline(whole(model, text_tokens), ["folded"]))


def whole(model: Model, text_tokens: int = TEXT_TOKENS) -> Bare:
    """Networks that take an image, or a tile of any plan, in one piece."""
    bare = load(model, torch.device("meta"), DTYPE, text_tokens)
    return bare._replace(geometry=replace(bare.geometry, tile=2048 // LATENT))


@cache
def plain_cost(model: Model, stage: Stage, side: int) -> Cost:
    """Of one image of side × side pixels."""
    return counted(partial(run, plain(model), stage, batch_of(model, stage, side)))


@cache
def our_cost(model: Model, stage: Stage, side: int, text_tokens: int) -> Cost:
    """Of one image, or one tile, of side × side pixels."""
    if stage != "predict" and text_tokens != TEXT_TOKENS:
        return our_cost(model, stage, side, TEXT_TOKENS)
    once = partial(run, ours(model, text_tokens), stage, batch_of(model, stage, side))
    with torch.inference_mode():
        once()  # what is computed for a size and kept is not part of the next image's cost
    return counted(once)


def batch_of(model: Model, stage: Stage, side: int) -> Tensor:
    """One image for a stage, without data."""
    channels, side = (3, side) if stage == "encode" else (LATENT_CHANNELS[model], side // LATENT)
    return torch.zeros(1, channels, side, side, device="meta")


def work_table() -> Table:
    """FLOPs, operators, launches and bytes by stage."""
    table = Table(
        "Work per image, plain → ours",
        COMMAND,
        ["case", "stage", "TFLOP", "×", "operators", "×", "launches", "×", "GB moved", "×"],
    )
    for case in CASES:
        before, after = case.plain, case.ours
        shown: Sequence[Stage] = STAGES if case.text_tokens == TEXT_TOKENS else ("predict",)
        for stage in shown:
            table.rows.append([case.name, stage, *_compared(before[stage], after[stage])])
        table.rows.append([case.name, "all", *_compared(total(before.values()), total(after.values()))])
    whole, whole_ours = total(S_512.plain.values()), total(S_512.ours.values())
    table.claim(
        f"S@512 takes {whole_ours.flops / 1e12:.2f} TFLOP in place of {whole.flops / 1e12:.2f} (at most 4.05)",
        holds=whole_ours.flops <= 4.05e12,
    )
    table.claim(
        f"S@512 dispatches {whole_ours.operators} operators in place of {whole.operators} (at most half)",
        holds=2 * whole_ours.operators <= whole.operators,
    )
    saved = 1 - SHORT[0].ours["predict"].flops / F_512.plain["predict"].flops
    table.claim(
        f"F@512 with 64 text tokens saves {saved:.1%} of the transformer's FLOPs (at least 28 %)", holds=saved >= 0.28
    )
    return table


def _compared(before: Cost, after: Cost) -> Iterator[Cell]:
    yield f"{before.flops / 1e12:.3g} → {after.flops / 1e12:.3g}"
    yield _ratio(after.flops, before.flops)
    yield f"{before.operators} → {after.operators}"
    yield _ratio(after.operators, before.operators)
    yield f"{before.launches} → {after.launches}"
    yield _ratio(after.launches, before.launches)
    yield f"{before.moved / 1e9:.3g} → {after.moved / 1e9:.3g}"
    yield _ratio(after.moved, before.moved)


def _ratio(after: float, before: float) -> str:
    return f"{after / before:.2f}"


def floor_table() -> Table:
    """What an L40S needs at least, against what the paper needed."""
    table = Table(
        "Floors on an L40S (362 TFLOP/s, dense bf16)",
        COMMAND,
        ["case", "floor, plain (ms)", "floor, ours (ms)", "paper (ms)", "paper / floor, plain", "paper / floor, ours"],
    )
    for case in (S_512, F_512, F_1K):
        floors = [total(costs.values()).flops / L40S_FLOPS for costs in (case.plain, case.ours)]
        paper = PAPER_SECONDS[case.name]
        cells = [f"{1e3 * seconds:.1f}" for seconds in (*floors, paper)]
        table.rows.append([case.name, *cells, *(f"{paper / floor:.1f}" for floor in floors)])
    for case in SHORT:
        table.rows.append([case.name, "–", f"{1e3 * total(case.ours.values()).flops / L40S_FLOPS:.1f}", "–", "–", "–"])
    return table


def weights_table() -> Table:
    """What lies in memory before the first image comes."""
    table = Table("Resident weights (GB of 10⁹ bytes, bf16)", COMMAND, ["model", "part", "plain", "ours", "×"])
    for model, denoiser in (("s", "UNet"), ("f", "transformer")):
        bare, pipe = plain(model).bare, ours(model).pipe
        before = size_of(tensors_of(bare.denoiser)), size_of(tensors_of(bare.autoencoder))
        after = size_of(tensors_of(pipe.denoiser.network)), size_of(tensors_of(pipe.vae))
        for part, was, now in zip((denoiser, "VAE"), before, after, strict=True):
            table.rows.append([model.upper(), part, f"{was / 1e9:.3f}", f"{now / 1e9:.3f}", _ratio(now, was)])
        table.rows.append(
            [
                model.upper(),
                "all",
                f"{sum(before) / 1e9:.3f}",
                f"{sum(after) / 1e9:.3f}",
                _ratio(sum(after), sum(before)),
            ]
        )
    table.claim(f"F lies in {sum(after) / 1e9:.2f} GB with its VAE (at most 17.5)", holds=sum(after) <= 17.5e9)
    return table


def plan_table() -> Table:
    """256 px to 2048 px with F: the first stage makes 1024, the second cuts tiles."""
    table = Table(
        "F from 256 to 2048 px in two stages, ours (TFLOP)",
        COMMAND,
        ["plan", "text tokens", "stage one", "VAE at 2048", "tiles", "all", "floor on an L40S (s)"],
    )
    for name, geometry in PLANS.items():
        for text_tokens in (TEXT_TOKENS, 64):
            planned = works((256, 256), 8, geometry)
            costs = [work.count * our_cost("f", work.kind, work.height, text_tokens).flops / 1e12 for work in planned]
            encode, tiles, decode = costs[3:]
            figures = [sum(costs[:3]), encode + decode, tiles, sum(costs), sum(costs) / (L40S_FLOPS / 1e12)]
            table.rows.append([name, str(text_tokens), *figures])
    return table


def tables() -> list[Table]:
    """All of them."""
    return [work_table(), floor_table(), weights_table(), plan_table()]
