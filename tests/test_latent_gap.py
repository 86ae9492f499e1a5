"""The latent gap of a many-step inference: the sampler against diffusers', the curve's meaning, the command."""

import csv
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from PIL import Image
from torch import Generator, Tensor
from typer.testing import CliRunner

from model import cli
from model.analysis.latent_gap import Disturbance, Trajectory, inference_timesteps, latent_gap, trajectory
from model.analysis.mid_timestep import Schedule, schedule_of
from model.family import FAMILIES, Denoiser
from model.prompt import load_prompt
from tests.golden import FAMILY, GOLDEN

runner = CliRunner()
app = typer.Typer()
app.command("mid-timestep")(cli.mid_timestep)
app.command("analyze")(cli.analyze)


def tiny(letter: str) -> tuple[Denoiser, Schedule]:
    base = GOLDEN / letter / "base"
    prompt = load_prompt(GOLDEN / letter / "prompt.safetensors")
    denoiser = FAMILIES[FAMILY[letter]].load(base, None, prompt, torch.float32, torch.device("cpu"))
    return denoiser, schedule_of(FAMILY[letter], base)


def noise_for(denoiser: Denoiser) -> Tensor:
    return torch.randn(1, denoiser.latent_channels, 8, 8, generator=Generator().manual_seed(0))


def infer(letter: str, level: float = 0.0, steps_left: int = 16) -> Trajectory:
    denoiser, schedule = tiny(letter)
    timesteps = inference_timesteps(20, denoiser.steps)
    return trajectory(denoiser, schedule, noise_for(denoiser), timesteps, Disturbance(level, steps_left))


@torch.no_grad()
def test_s_samples_as_diffusers_ddim_does() -> None:
    denoiser, _ = tiny("s")
    sampler = DDIMScheduler.from_pretrained(GOLDEN / "s" / "base" / "scheduler", set_alpha_to_one=True)
    sampler.set_timesteps(20)
    ours = infer("s")
    assert ours.timesteps == tuple(sampler.timesteps.tolist())
    z = noise_for(denoiser)
    for i, t in enumerate(ours.timesteps):
        assert torch.allclose(ours.latents[i], z, rtol=1e-4, atol=1e-4)
        z = sampler.step(denoiser(z, t), torch.tensor(t), z).prev_sample
    assert torch.allclose(ours.latents[-1], z, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_f_samples_as_diffusers_euler_does() -> None:
    denoiser, schedule = tiny("f")
    ours = infer("f")
    sampler = FlowMatchEulerDiscreteScheduler()
    sampler.set_timesteps(sigmas=[schedule.signal_noise(t)[1].item() for t in ours.timesteps])
    z = noise_for(denoiser)
    for i, t in enumerate(ours.timesteps):
        assert torch.allclose(ours.latents[i], z, rtol=1e-4, atol=1e-4)
        z = sampler.step(denoiser(z, t), sampler.timesteps[i], z).prev_sample
    assert torch.allclose(ours.latents[-1], z, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("letter", FAMILY)
def test_the_gap_compares_with_the_final_image_noised_again(letter: str) -> None:
    denoiser, schedule = tiny(letter)
    epsilon, one = noise_for(denoiser), infer(letter)
    z_0 = one.latents[-1]
    for seen, t, gap in zip(one.latents[:-1], one.timesteps, one.gaps, strict=True):
        signal, noise = schedule.signal_noise(t)
        assert gap == pytest.approx((seen - signal * z_0 - noise * epsilon).square().mean().item(), rel=1e-5)
        assert latent_gap(signal * z_0 + noise * epsilon, z_0, epsilon, schedule, t) == pytest.approx(0, abs=1e-12)


class Oracle:
    """A denoiser that knows the one image there is: its inference follows eq. 5 and 6 exactly."""

    latent_channels = 4
    steps = 1000

    def __init__(self, schedule: Schedule, z_0: Tensor) -> None:
        self.schedule, self.z_0 = schedule, z_0

    def __call__(self, z_l: Tensor, t: int | Tensor) -> Tensor:
        signal, noise = self.schedule.signal_noise(t)
        return self.schedule.target(self.z_0, (z_l - signal * self.z_0) / noise)

    def step(self, z_l: Tensor, prediction: Tensor, t: int) -> Tensor:
        return self.schedule.step(z_l, prediction, t)


@pytest.mark.parametrize("letter", FAMILY)
def test_a_perfect_model_has_no_gap_until_noise_is_thrown_in(letter: str) -> None:
    _, schedule = tiny(letter)
    z_0, epsilon = torch.randn(2, 1, 4, 16, 16, generator=Generator().manual_seed(3))
    oracle, timesteps = Oracle(schedule, z_0), inference_timesteps(20, 1000)
    calm = trajectory(oracle, schedule, epsilon, timesteps, Disturbance(0))
    first_signal, _ = schedule.signal_noise(999)  # z begins as ε alone, where DDPM's z_999 has a trace of z_0 in it
    assert max(calm.gaps) <= 2 * first_signal.item() ** 2 + 1e-6
    assert torch.allclose(calm.latents[-1], z_0, atol=1e-4)
    gaps = {level: trajectory(oracle, schedule, epsilon, timesteps, Disturbance(level)).gaps for level in (0.2, 0.4)}
    for level, gap in gaps.items():
        assert gap[:4] == pytest.approx(calm.gaps[:4], abs=1e-6)
        assert gap[4] == pytest.approx(level**2 + calm.gaps[4], rel=0.15)
    assert all(high > low for low, high in zip(gaps[0.2][4:], gaps[0.4][4:], strict=True))


@pytest.mark.parametrize("steps", [1, 4, 20, 30, 1000])
def test_timesteps_fall_from_the_noise(steps: int) -> None:
    timesteps = inference_timesteps(steps, 1000)
    assert len(timesteps) == steps
    assert timesteps[0] == 999
    assert all(0 <= later < earlier for earlier, later in pairwise(timesteps))


def test_no_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="steps must be 1 … 1000, got 0"):
        inference_timesteps(0, 1000)


def command(letter: str, out: Path, *options: str) -> list[str]:
    folder = GOLDEN / letter
    given = {"--base": folder / "base", "--prompt": folder / "prompt.safetensors", "--family": FAMILY[letter]}
    flags = [str(part) for pair in given.items() for part in pair]
    return ["analyze", *flags, "--out", str(out), "--size", "64", *options]


@pytest.mark.parametrize("letter", FAMILY)
def test_the_command_writes_curve_table_and_strip(letter: str, tmp_path: Path) -> None:
    result = runner.invoke(app, command(letter, tmp_path, "--level", "0.2", "--level", "0.6"))
    assert result.exit_code == 0, result.output
    with (tmp_path / "latent_gap.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [int(row["steps_left"]) for row in table] == list(range(20, 0, -1))
    assert int(table[0]["t"]) == 999
    assert {"no noise", "R.N.@0.2", "R.N.@0.6"} <= table[0].keys()
    # random weights: whether noise widens the gap is for the oracle above to say, but it must arrive
    assert len({table[4][name] for name in ("no noise", "R.N.@0.2", "R.N.@0.6")}) == 3
    with Image.open(tmp_path / "steps.png") as strip:
        assert strip.size == (21 * 98, 3 * 98)
        assert np.asarray(strip).std() > 1
    with Image.open(tmp_path / "latent_gap.png") as plot:
        assert plot.width > 400


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "72"], "multiple of 16"),
        (["--steps", "10"], "must be at most"),
        (["--prompt", "missing.safetensors"], "missing.safetensors is missing"),
    ],
)
def test_what_cannot_be_analysed_is_told_plainly(tmp_path: Path, options: list[str], message: str) -> None:
    result = runner.invoke(app, command("f", tmp_path / "out", *options))
    assert result.exit_code != 0
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()
