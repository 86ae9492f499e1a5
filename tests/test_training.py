"""Training, on tiny random models: the degradation, the losses, resume, and the way from adapters to a variant."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from torch import Tensor, nn

from model import OMGSRPipeline
from model.train.config import Stage
from model.train.degradation import Degradation, degrade, upsample
from model.train.loop import Loop
from model.train.losses.ldr import ddpm_ldr, flow_ldr
from model.train.omgsr import Omgsr, snr_timestep
from model.train.trainer import Weights, omgsr_losses
from tests.golden import GOLDEN

sides = st.integers(4, 16).map(lambda n: n * 8)


def photo(height: int, width: int, seed: int = 0, count: int = 1) -> Tensor:
    """Smooth random pictures [count,3,H,W] in [-1,1]."""
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")


@settings(deadline=None, max_examples=25)
@given(height=sides, width=sides, seed=st.integers(0, 10**6))
def test_a_damaged_photo_is_small_valid_and_the_same_for_the_same_seed(height: int, width: int, seed: int) -> None:
    x = photo(height, width, seed)
    small = degrade(x, [seed], Degradation())
    assert small.shape == (1, 3, height // 4, width // 4)
    assert -1 <= small.min() <= small.max() <= 1
    levels = (small + 1) * 127.5
    assert torch.allclose(levels, levels.round(), atol=1e-3)
    assert torch.equal(small, degrade(x, [seed], Degradation()))


def test_damage_does_not_depend_on_the_batch() -> None:
    x = photo(64, 64, count=3)
    together = degrade(x, [5, 6, 7], Degradation())
    assert torch.equal(together[1:2], degrade(x[1:2], [6], Degradation()))
    assert not torch.equal(degrade(x[:1], [5], Degradation()), degrade(x[:1], [8], Degradation()))


def test_the_network_sees_pillows_enlargement() -> None:
    small = degrade(photo(64, 96), [1], Degradation())
    pixels = ((small[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    expected = np.asarray(Image.fromarray(pixels).resize((96, 64), Image.Resampling.BICUBIC))
    ours = ((upsample(small, 4)[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(ours, expected)


@pytest.mark.parametrize("family", ["ddpm", "flow"])
def test_ldr_is_the_expectation_of_its_equation(family: str) -> None:
    generator = torch.Generator().manual_seed(0)
    z_l, z_0 = (torch.randn(1, 4, 8, 8, generator=generator) for _ in range(2))
    noise = torch.randn(4000, 4, 8, 8, generator=generator)
    if family == "ddpm":
        sampled = (z_l - (0.76**0.5 * z_0 + 0.24**0.5 * noise)).square().mean()  # eq. 10
        exact = ddpm_ldr(z_l, z_0, 0.76)
    else:
        sampled = (z_l - (0.43 * z_0 + 0.57 * noise)).square().mean()  # eq. 11
        exact = flow_ldr(z_l, z_0, 0.57)
    assert exact.item() == pytest.approx(sampled.item(), rel=0.01)


def tiny() -> Omgsr:
    torch.manual_seed(0)
    model = Omgsr(GOLDEN / "s" / "base", GOLDEN / "s" / "prompt.safetensors", encoder_rank=4, denoiser_rank=4)
    with torch.no_grad():
        for parameter in model.adapters().values():  # LoRA's B starts at zero, and A then has no gradient
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return model


def l1(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().mean()


def test_training_moves_every_adapter_and_leaves_the_base_alone() -> None:
    model = tiny()
    adapters = model.adapters()
    frozen = {name: value.clone() for name, value in model.state_dict().items() if "lora_" not in name}
    x_h = photo(64, 64, count=2)
    x_l = upsample(degrade(x_h, [0, 1], Degradation()), 4)
    optimizer = torch.optim.AdamW(adapters.values(), lr=1e-3)
    totals = []
    for _ in range(6):
        optimizer.zero_grad()
        losses = omgsr_losses(model, x_l, x_h, t=195, weights=Weights(), feature=l1)  # type: ignore[arg-type]
        losses["total"].backward()
        assert [name for name, p in adapters.items() if p.grad is None or not p.grad.abs().max()] == []
        optimizer.step()
        totals.append(losses["total"].item())
    assert totals[-1] < totals[0]
    assert all(torch.equal(model.state_dict()[name], value) for name, value in frozen.items())


def test_the_trained_adapters_serve_as_they_trained(tmp_path: Path) -> None:
    model = tiny()
    model.save_adapters(tmp_path)
    pipe = OMGSRPipeline.from_pretrained(
        GOLDEN / "s" / "base",
        adapters=tmp_path,
        family="sd",
        mid_timestep=195,
        prompt=GOLDEN / "s" / "prompt.safetensors",
    )
    x = photo(128, 128)
    with torch.no_grad():
        z_l = model.encode(x)
        trained = model.decode(model.predict(z_l, 195))
    served = pipe.decode(pipe.predict(pipe.encode(x)))
    assert (served - trained.clamp(-1, 1)).abs().max() <= 0.02  # adapters are stored in float16


@pytest.mark.parametrize("muon", [None, 1e-2])
def test_a_stopped_run_resumes_to_the_same_weights(tmp_path: Path, muon: float | None) -> None:
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


def test_the_snr_criterion_finds_the_timestep_of_a_known_gap() -> None:
    schedule = tiny().schedule
    alpha_bar = schedule.alpha_bar[195].item()
    assert snr_timestep(schedule, (1 - alpha_bar) / alpha_bar) == 195


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
