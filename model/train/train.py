"""From a recipe to a variant: what `omgsr train CONFIG` does."""

import itertools
import json
import os
from pathlib import Path

import torch
from accelerate import Accelerator

from model.analysis.mid_timestep import snr_timestep
from model.errors import TrainingError
from model.train.config import load_config
from model.train.data import Crops
from model.train.export import export
from model.train.omgsr import Omgsr
from model.train.pairs import Pairs, samples_of
from model.train.recipe import Recipe
from model.train.trainer import Trainer

RECIPE = "recipe.json"
MEASURED, MEASURING = 64, 2**40
"""Pairs that the mid-timestep is measured on, and the number of their first batch: training never gets there."""


def train(path: Path, *, export_only: bool = False) -> str:
    """Run the recipe in the YAML file at `path`, from its last checkpoint; when it ends, its folder is a variant.

    `export_only` writes the variant from the last checkpoint without training. Returns what there is to say at the
    end, on the first process only. Raises TrainingError, DataError, ModelFilesError, or pydantic's error naming each
    bad field.
    """
    recipe = load_config(path, Recipe)
    opt = recipe.optimization
    accelerator = Accelerator(mixed_precision=opt.precision, gradient_accumulation_steps=opt.accumulate)
    check_processes(accelerator)
    torch.manual_seed(opt.seed)
    samples = samples_of(recipe)
    pairs = Pairs(samples, recipe.degradation, opt.batch, accelerator.device, opt.workers)
    omgsr = build(recipe, accelerator.device)
    with accelerator.main_process_first():
        omgsr.settle(settled_timestep(recipe, omgsr, pairs))
    trainer = Trainer(recipe, omgsr, pairs, accelerator)
    if export_only and not trainer.resume():
        raise TrainingError(f"{recipe.run} has no checkpoint to export: train first")
    finished = export_only or trainer.run()
    if not accelerator.is_main_process:
        return ""
    reasons = samples.photos.skipped.reasons if isinstance(samples, Crops) else {}
    skipped = f"{len(reasons)} photos were skipped; " if reasons else ""
    if not finished:
        return f"{skipped}stopped and saved; run the same command again to go on"
    export(recipe, trainer.exported(), trainer.position)
    return f"{skipped}{recipe.run} is a variant: omgsr serve --models {recipe.run}"


def check_processes(accelerator: Accelerator) -> None:
    """Refuse several processes that do not know of each other: each would train alone, into the same folder."""
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != accelerator.num_processes:
        raise TrainingError(
            f"{started} processes were started, but torch finds no GPU to join them on: "
            "set ACCELERATE_USE_CPU=true to train on CPUs"
        )


def build(recipe: Recipe, device: torch.device) -> Omgsr:
    """The networks of a recipe, with fresh adapters or those of `adapters.start`."""
    omgsr = Omgsr(
        recipe.family,
        recipe.base,
        recipe.prompt,
        encoder_rank=recipe.adapters.encoder_rank,
        denoiser_rank=recipe.adapters.denoiser_rank,
        denoiser_targets=recipe.adapters.denoiser_targets,
        dtype=getattr(torch, recipe.optimization.base_dtype),
        device=device,
    )
    if recipe.optimization.checkpoint_activations:
        omgsr.checkpoint_activations()
    if recipe.adapters.start is not None:
        omgsr.load_adapters(recipe.adapters.start)
    if not recipe.optimization.encoder_lr_factor:
        omgsr.rest_encoder()
    if recipe.optimization.decoder_lr_factor:
        omgsr.train_decoder()
    return omgsr


@torch.no_grad()
def settled_timestep(recipe: Recipe, omgsr: Omgsr, pairs: Pairs) -> int:
    """The recipe's mid-timestep, or the one measured by the SNR criterion; kept in the run's folder from then on.

    Raises TrainingError if the folder belongs to another recipe: one that would train otherwise.
    """
    place = recipe.run / RECIPE
    asked = recipe.model_dump(mode="json", exclude={"keeping": True, "optimization": {"steps"}})
    if place.is_file():
        kept = json.loads(place.read_text())
        changed = sorted(name for name in asked if name != "variant" and asked[name] != kept["recipe"].get(name))
        if changed:
            raise TrainingError(f"{recipe.run} holds another recipe's run ({', '.join(changed)}): name another `run`")
        return int(kept["mid_timestep"])
    t = recipe.mid_timestep
    if t is None:
        batches = itertools.islice(pairs.stream(MEASURING), -(-MEASURED // pairs.size))
        gaps = [(omgsr.encode_original(x_l) - omgsr.encode_original(x_h)).square().mean() for x_l, x_h in batches]
        t = snr_timestep(omgsr.denoiser.schedule, torch.stack(gaps).mean().item())
    recipe.run.mkdir(parents=True, exist_ok=True)
    partial = place.with_suffix(".partial")
    partial.write_text(json.dumps({"recipe": asked, "mid_timestep": t}, indent=2) + "\n")
    partial.replace(place)
    return t
