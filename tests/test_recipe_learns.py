"""The whole recipe on tiny models: every term falls, every adapter learns, and nothing else moves."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image
from torch import Tensor

from model.errors import TrainingError
from model.train.degradation import Degradation, degrade, upsample
from model.train.omgsr import Omgsr
from model.train.recipe import Recipe
from model.train.train import build
from model.train.trainer import Trainer
from tests.training import PHOTOS, tiny_recipe

FAMILIES = pytest.mark.parametrize("letter", ["s", "f"])


class OnePair:
    """The same photo in every batch, so that a falling loss is learning and not luck."""

    def __init__(self) -> None:
        with Image.open(PHOTOS / "coffee.jpg") as photo:
            pixels = np.array(photo.convert("RGB").crop((100, 100, 164, 164)))
        self.x_h = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
        self.x_l = upsample(degrade(self.x_h, [3], Degradation()), 4)

    def stream(self, _first: int, _stride: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        return itertools.repeat((self.x_l, self.x_h))


def trainer(folder: Path, letter: str, **optimization: object) -> tuple[Trainer, Omgsr]:
    AcceleratorState._reset_state(reset_partial_state=True)
    recipe = Recipe.model_validate(tiny_recipe(folder, letter, **optimization))
    torch.manual_seed(0)
    omgsr = build(recipe, torch.device("cpu"))
    omgsr.settle(recipe.mid_timestep or 0)
    return Trainer(
        recipe, omgsr, OnePair(), Accelerator(cpu=True, mixed_precision=recipe.optimization.precision)
    ), omgsr  # type: ignore[arg-type]


def frozen_tensors(omgsr: Omgsr) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in omgsr.state_dict().items() if "lora_" not in name}


@FAMILIES
def test_fifty_steps_lower_every_term_and_leave_the_base_alone(tmp_path: Path, letter: str) -> None:
    run, omgsr = trainer(tmp_path, letter, steps=50, lr=1e-2)
    frozen = frozen_tensors(omgsr)
    first, _ = run._step()
    run.run()
    last, _ = run._step()
    _, noise = omgsr.denoiser.schedule.signal_noise(omgsr.mid_timestep)
    floor = noise.item() ** 2  # what LDR cannot fall below: 1 − ᾱ, σ²
    assert last["ldr"] - floor <= 0.8 * (first["ldr"] - floor)
    assert last["mse"] <= 0.8 * first["mse"]
    assert last["perceptual"] <= 0.8 * first["perceptual"]
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in frozen_tensors(omgsr).items())


@FAMILIES
def test_every_adapter_tensor_gets_a_gradient(tmp_path: Path, letter: str) -> None:
    run, omgsr = trainer(tmp_path, letter, weight_decay=0)  # which would move what has no gradient
    run._step()  # LoRA's B starts at zero, so A has no gradient before the first step
    before = {name: param.detach().clone() for name, param in omgsr.adapters().items()}
    run._step()
    assert [name for name, param in omgsr.adapters().items() if torch.equal(param, before[name])] == []


@FAMILIES
def test_the_decoder_learns_where_it_is_asked_to_and_nothing_else_of_the_base_does(tmp_path: Path, letter: str) -> None:
    run, omgsr = trainer(tmp_path, letter, decoder_lr_factor=0.5)
    frozen, decoder = frozen_tensors(omgsr), {name for name in omgsr.adapters() if "lora_" not in name}
    run._step()
    changed = {name for name, tensor in frozen_tensors(omgsr).items() if not torch.equal(tensor, frozen[name])}
    assert changed == decoder
    assert "vae.autoencoder.decoder.conv_in.weight" in decoder


@FAMILIES
def test_recomputed_activations_give_the_same_step(tmp_path: Path, letter: str) -> None:
    kept, recomputed = (trainer(tmp_path, letter, checkpoint_activations=recompute)[0] for recompute in (False, True))
    for run in (kept, recomputed):
        run._step()
    assert all(torch.equal(param, recomputed.adapters[name]) for name, param in kept.adapters.items())


@FAMILIES
def test_a_bfloat16_base_trains_float32_adapters(tmp_path: Path, letter: str) -> None:
    run, omgsr = trainer(tmp_path, letter, precision="bf16", base_dtype="bfloat16", checkpoint_activations=True)
    before = {name: param.detach().clone() for name, param in run.adapters.items()}
    frozen = frozen_tensors(omgsr)
    run._step()
    run._step()
    assert {param.dtype for param in run.adapters.values()} == {torch.float32}
    assert not any(torch.equal(param, before[name]) for name, param in run.adapters.items())
    assert {tensor.dtype for tensor in frozen.values()} == {torch.bfloat16}
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in frozen_tensors(omgsr).items())


def test_the_generators_turn_leaves_the_discriminator_alone(tmp_path: Path) -> None:
    run, _ = trainer(tmp_path, "s")
    assert run.critic is not None
    heads = {name: tensor.clone() for name, tensor in run.critic.heads.state_dict().items()}
    run._generator_turn(*next(OnePair().stream(0)), index=0)
    assert all(param.grad is None for param in run.critic.parameters())
    assert all(torch.equal(tensor, heads[name]) for name, tensor in run.critic.heads.state_dict().items())
    adapters = {name: param.detach().clone() for name, param in run.adapters.items()}
    real, fake = (image.clone().requires_grad_() for image in next(OnePair().stream(0)))
    run._critic_turn(real, fake, index=0)
    assert fake.grad is None
    assert all(torch.equal(param, adapters[name]) for name, param in run.adapters.items())
    assert any(not torch.equal(tensor, heads[name]) for name, tensor in run.critic.heads.state_dict().items())


def test_a_loss_that_is_not_finite_stops_the_run_and_says_what_to_do(tmp_path: Path) -> None:
    run, omgsr = trainer(tmp_path, "s")
    next(iter(omgsr.adapters().values())).data.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"step 1: .*not finite.*optimization\.lr"):
        run.run()
    assert run.checkpoints.found() == []


def test_weights_of_zero_skip_their_term(tmp_path: Path) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    fields = tiny_recipe(tmp_path) | {"weights": {"ldr": 1, "mse": 0, "perceptual": 0, "gan": 0, "latent": 1}}
    recipe = Recipe.model_validate(fields)
    omgsr = build(recipe, torch.device("cpu"))
    losses, _ = Trainer(recipe, omgsr, OnePair(), Accelerator(cpu=True))._step()  # type: ignore[arg-type]
    assert losses.keys() == {"total", "ldr", "latent"}
