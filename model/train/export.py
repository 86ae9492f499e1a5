"""The finished run as a variant: adapters, prompt, base, variant.json, and a model card. The run's folder is it."""

import os
import shutil
from pathlib import Path

from diffusers import AutoencoderKL

from model.family import family_named
from model.files import base_sha256, file_sha256, load_component
from model.train.omgsr import Omgsr
from model.train.recipe import Recipe
from model.train.resume import Position
from model.variant import FILE, PROMPT, Base, Prompt, Variant, check_prompt

CARD = "README.md"


def export(recipe: Recipe, omgsr: Omgsr, position: Position) -> Variant:
    """Make `recipe.run` a variant, which serves where it lies. Its base is a link, or a copy with a trained decoder."""
    folder, fields = recipe.run, recipe.variant
    (folder / FILE).unlink(missing_ok=True)  # written last: a folder without it is no variant, an earlier one neither
    omgsr.save_adapters(folder)
    shutil.copyfile(recipe.prompt, folder / PROMPT)
    base = folder / "base"
    if recipe.optimization.decoder_lr_factor:
        _own_base(base, recipe.base, omgsr)
    else:
        _link(base, recipe.base)
    tile = fields.native_size // 8
    variant = Variant(
        name=fields.name,
        family=recipe.family,
        base=Base(
            id=recipe.base_id,
            revision=recipe.base_revision,
            sha256=base_sha256(base, family_named(recipe.family).components),
        ),
        mid_timestep=omgsr.mid_timestep,
        native_size=fields.native_size,
        process_size=fields.native_size,
        tile=tile,
        overlap=tile // 2,
        dtype=fields.dtype,
        color_fix=fields.color_fix,
        prompt=Prompt(text=fields.prompt, sha256=file_sha256(folder / PROMPT)),
        text_length=omgsr.text_length,
        license=fields.license,
    )
    check_prompt(variant, folder)  # the file may be another by now than the one that was trained with
    (folder / CARD).write_text(card(recipe, variant, position))
    variant.write(folder)
    return variant


def card(recipe: Recipe, variant: Variant, position: Position) -> str:
    """The model card in Markdown: what was trained, on what, by what, for how long."""
    opt, adapters = recipe.optimization, recipe.adapters
    terms = ", ".join(f"{weight:g} × {name}" for name, weight in recipe.weights.model_dump().items() if weight)
    rows = {
        "base": f"`{variant.base.id}` {variant.base.revision}, sha256 {variant.base.sha256[:12]}…",
        "family": variant.family,
        "adapters": f"LoRA, rank {adapters.encoder_rank} (VAE's encoder) and {adapters.denoiser_rank} (denoiser)",
        "decoder": "trained" if opt.decoder_lr_factor else "the base's",
        "mid-timestep": variant.mid_timestep,
        "prompt": variant.prompt.text or "empty",
        "data": _data(recipe),
        "objective": terms,
        "backbones": _backbones(recipe),
        "steps": f"{position.step} of {opt.batch * opt.accumulate} pairs a process, {position.seconds / 3600:.2f} h",
        "optimizer": f"AdamW, {opt.lr:g} (encoder × {opt.encoder_lr_factor:g}), {opt.schedule}, EMA {opt.ema:g}",
        "licence": variant.license,
    }
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    metrics = "Not measured yet: `omgsr evaluate --lq DIR --hq DIR --model FOLDER` gives the figures."
    return "\n".join([f"# {variant.name}", "", "| | |", "|---|---|", *lines, "", "## Measured", metrics, ""])


def _data(recipe: Recipe) -> str:
    if recipe.pairs is not None:
        return f"pairs made before, {recipe.pairs.lq} and {recipe.pairs.hq}, crops of {recipe.crop} px"
    assert recipe.data is not None
    sources = ", ".join(str(source.path) for source in recipe.data.sources)
    return f"{sources}, crops of {recipe.crop} px, Real-ESRGAN degradation"


def _backbones(recipe: Recipe) -> str:
    """The networks that judge: a distance on MobileNetV2 is not LPIPS, and the card must not let it seem so."""
    weights = recipe.weights
    judges = {
        "perceptual": recipe.perceptual.kind if weights.perceptual else "",
        "structure": "vgg16" if weights.structure else "",
        "gan": recipe.critic.kind if weights.gan else "",
    }
    return ", ".join(f"{kind} ({term})" for term, kind in judges.items() if kind) or "none"


def _own_base(place: Path, base: Path, omgsr: Omgsr) -> None:
    """A copy of `base` that has the decoder of `omgsr`."""
    partial = place.with_name(f"{place.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(base, partial)
    autoencoder = load_component(AutoencoderKL, base / "vae")
    trained, kept = omgsr.vae.autoencoder.state_dict(), autoencoder.state_dict()
    autoencoder.load_state_dict({name: trained.get(name, tensor) for name, tensor in kept.items()})
    autoencoder.save_pretrained(partial / "vae")
    shutil.copyfile(base / "vae" / "config.json", partial / "vae" / "config.json")  # diffusers adds the path it was at
    if place.is_symlink():
        place.unlink()
    shutil.rmtree(place, ignore_errors=True)
    partial.rename(place)


def _link(place: Path, base: Path) -> None:
    if place.is_symlink():
        place.unlink()
    if not place.exists():
        place.symlink_to(os.path.relpath(base.resolve(), place.parent.resolve()), target_is_directory=True)
