"""Training's smaller parts: the LDR, adapters that serve as they trained, and the mini bases."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
import yaml
from pydantic import ValidationError
from torch import Tensor, nn

from model import OMGSRPipeline
from model.errors import ModelFilesError
from model.schedule import DDPMSchedule, FlowSchedule
from model.train.base import main as train_base
from model.train.config import Stage
from model.train.export import export
from model.train.loop import Loop
from model.train.losses.ldr import ldr
from model.train.recipe import Recipe
from model.train.resume import Position
from model.train.train import build
from model.variant import verify_variant
from tests.golden import FAMILY, GOLDEN
from tests.training import PHOTOS, tiny_recipe

SCHEDULER = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
}


@pytest.mark.parametrize("schedule", [DDPMSchedule.from_config(SCHEDULER), FlowSchedule.flux()])
def test_ldr_is_the_expectation_of_its_equation(schedule: DDPMSchedule | FlowSchedule) -> None:
    generator = torch.Generator().manual_seed(0)
    z_l, z_0 = (torch.randn(1, 4, 8, 8, generator=generator) for _ in range(2))
    epsilon = torch.randn(4000, 4, 8, 8, generator=generator)
    signal, noise = (factor.item() for factor in schedule.signal_noise(295))
    sampled = (z_l - (signal * z_0 + noise * epsilon)).square().mean()  # eq. 10, eq. 11
    assert ldr(z_l, z_0, signal, noise).item() == pytest.approx(sampled.item(), rel=0.01)


def test_the_gradient_of_ldr_is_right() -> None:
    z_l, z_0 = (torch.randn(1, 2, 3, 3, dtype=torch.float64) for _ in range(2))
    assert torch.autograd.gradcheck(lambda z: ldr(z, z_0, 0.8, 0.6), z_l.requires_grad_())


@pytest.mark.parametrize("letter", ["s", "f"])
def test_the_trained_adapters_serve_as_they_trained(tmp_path: Path, letter: str) -> None:
    recipe = Recipe.model_validate(tiny_recipe(tmp_path, letter))
    omgsr = build(recipe, torch.device("cpu"))
    t = recipe.mid_timestep or 0
    omgsr.settle(t)
    torch.manual_seed(0)
    with torch.no_grad():
        for adapter in omgsr.adapters().values():
            adapter.add_(torch.randn_like(adapter), alpha=0.02)
    omgsr.save_adapters(tmp_path)
    pipe = OMGSRPipeline.from_pretrained(
        GOLDEN / letter / "base",
        adapters=tmp_path,
        family=FAMILY[letter],
        mid_timestep=t,
        prompt=GOLDEN / letter / "prompt.safetensors",
    )
    x = torch.rand(1, 3, 128, 128) * 2 - 1
    with torch.no_grad():
        trained = omgsr(x, x).x_p
    served = pipe.decode(pipe.predict(pipe.encode(x)))
    assert (served - trained.clamp(-1, 1)).abs().max() <= 0.02  # adapters are stored in float16
    assert all(adapter.dtype == torch.float32 for adapter in omgsr.adapters().values())


def test_a_trained_decoder_goes_into_a_base_of_the_variant_s_own(tmp_path: Path) -> None:
    recipe = Recipe.model_validate(tiny_recipe(tmp_path, decoder_lr_factor=0.1))
    omgsr = build(recipe, torch.device("cpu"))
    omgsr.settle(recipe.mid_timestep or 0)
    z = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = omgsr.vae.decode(z)
        for name, weight in omgsr.adapters().items():
            if "decoder" in name:
                weight.mul_(1.1)
        after = omgsr.vae.decode(z)
    export(recipe, omgsr, Position())
    assert verify_variant(recipe.run) == []
    config = Path("vae", "config.json")
    assert (recipe.run / "base" / config).read_bytes() == (recipe.base / config).read_bytes()
    served, other = OMGSRPipeline.from_variant(recipe.run), build(recipe, torch.device("cpu"))
    with torch.no_grad():
        assert (served.decode(z) - after.clamp(-1, 1)).abs().max() <= 1e-4
        assert torch.equal(other.vae.decode(z), before)  # the recipe's base is as it was
    assert (after - before).abs().max() > 0.01
    export(recipe, other, Position())  # an export in place of an earlier one
    assert (OMGSRPipeline.from_variant(recipe.run).decode(z) - before.clamp(-1, 1)).abs().max() <= 1e-4


def test_adapters_of_another_rank_are_no_start(tmp_path: Path) -> None:
    fields = tiny_recipe(tmp_path)
    build(Recipe.model_validate(fields), torch.device("cpu")).save_adapters(tmp_path)
    fields["adapters"] = {"encoder_rank": 4, "denoiser_rank": 8, "start": str(tmp_path)}
    with pytest.raises(ModelFilesError, match=r"rank 4 .* asks for rank 8.*denoiser_rank"):
        build(Recipe.model_validate(fields), torch.device("cpu"))


@pytest.mark.parametrize("muon", [None, 1e-2])
def test_a_stopped_loop_resumes_to_the_same_weights(tmp_path: Path, muon: float | None) -> None:
    stage = Stage(steps=8, crop=(16,), batch=(1,), lr=1e-2, muon_lr=muon, warmup_steps=2, bf16=False)

    def run(folder: Path, stop_at: int | None) -> dict[str, Tensor]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))

        def losses_of(step: int, _size: int, _side: int) -> dict[str, Tensor]:
            if step == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            x = torch.randn(3, 6, generator=torch.Generator().manual_seed(step))
            return {"total": net(x).square().mean()}

        return Loop("net", stage, folder, dict(net.named_parameters())).run(losses_of)

    straight = run(tmp_path / "straight", None)
    with pytest.raises(SystemExit, match="stopped at step 4"):
        run(tmp_path / "stopped", 3)
    resumed = run(tmp_path / "stopped", None)
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


@pytest.mark.parametrize("letter", ["s", "f"])
def test_a_base_of_either_family_trains_and_loads(tmp_path: Path, letter: str) -> None:
    name = {"s": "unet", "f": "transformer"}[letter]
    denoiser = json.loads((GOLDEN / letter / "base" / name / "config.json").read_text())
    config = {
        "family": FAMILY[letter],
        "run": str(tmp_path / "run"),
        "export": str(tmp_path / "base"),
        "data": {"sources": [str(PHOTOS / "coffee.jpg")]},
        "vae_from": str(GOLDEN / letter / "base" / "vae"),
        "denoiser_model": {field: value for field, value in denoiser.items() if not field.startswith("_")},
        "scheduler": SCHEDULER if letter == "s" else {},
        "denoiser": {"steps": 2, "crop": [64], "batch": [2], "lr": 1e-3, "muon_lr": 1e-2, "bf16": False},
    }
    path = tmp_path / "base.yaml"
    path.write_text(yaml.safe_dump(config))
    train_base(path)
    for file in (GOLDEN / letter / "base" / "vae").iterdir():
        assert (tmp_path / "base" / "vae" / file.name).read_bytes() == file.read_bytes(), "the VAE's hash changes"
    pipe = OMGSRPipeline.from_pretrained(
        tmp_path / "base",
        adapters=None,
        family=FAMILY[letter],
        mid_timestep=200,
        prompt=tmp_path / "run" / "prompt.safetensors",
    )
    x = torch.rand(1, 3, 64, 64) * 2 - 1
    assert pipe.decode(pipe.predict(pipe.encode(x))).isfinite().all()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"steps": None}, "exactly one of minutes and steps"),
        ({"minutes": 3}, "exactly one of minutes and steps"),
        ({"batch": (1, 2)}, "same length"),
        ({"crop": (100,)}, "multiples of 16"),
        ({"lr": -1}, "greater than 0"),
        ({"learning_rate": 1}, "learning_rate"),
    ],
)
def test_a_bad_stage_is_refused(change: dict, match: str) -> None:
    good = {"steps": 5, "crop": (64,), "batch": (2,), "lr": 1e-3}
    assert Stage(**good)
    with pytest.raises(ValidationError, match=match):
        Stage(**{**good, **change})
