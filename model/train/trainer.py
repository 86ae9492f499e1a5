"""OMGSR's training, one loop for both families: a generator's turn (eq. 16), then the discriminator's.

Runs on one process or many (`accelerate launch`), resumes exactly from its last checkpoint, and leaves a variant.
"""

import math
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from model.errors import TrainingError
from model.train.journal import Journal
from model.train.losses.gan import Discriminator
from model.train.objective import build_critic, build_objective
from model.train.omgsr import Omgsr, Restored
from model.train.pairs import Pairs
from model.train.recipe import Optimization, Recipe
from model.train.resume import Checkpoints, Position


class Trainer:
    """One run of a recipe. `run()` trains to the end or to a signal, always from the last checkpoint."""

    def __init__(self, recipe: Recipe, omgsr: Omgsr, pairs: Pairs, accelerator: Accelerator) -> None:
        self.recipe, self.pairs, self.accelerator = recipe, pairs, accelerator
        opt = recipe.optimization
        self.adapters = omgsr.adapters()
        omgsr.decodes = recipe.weights.pixels
        critic = build_critic(recipe.critic) if recipe.weights.gan else None
        mixed = omgsr.denoiser.schedule.signal_noise(omgsr.mid_timestep)
        self.objective = build_objective(recipe.weights, recipe.perceptual, mixed).to(accelerator.device)
        optimizers = [generator_optimizer(opt, self.adapters)]
        if critic is not None:
            optimizers.append(AdamW(critic.heads.parameters(), recipe.critic.lr, opt.betas, weight_decay=0))
        self.schedulers = [LambdaLR(each, lambda step: learning_rate(opt, step)) for each in optimizers]
        self.average = EMAModel(self.adapters.values(), decay=opt.ema, foreach=True) if opt.ema else None
        self.position = Position()
        self.omgsr = accelerator.prepare(omgsr)
        self.critic = accelerator.prepare(critic) if critic is not None else None
        self.optimizers = [accelerator.prepare(each) for each in optimizers]
        self.checkpoints = Checkpoints(recipe.run / "checkpoints", recipe.keeping.keep, accelerator)
        accelerator.register_for_checkpointing(self.position, *self.schedulers, *([self.average] if opt.ema else []))
        self.batches = pairs.stream(self._index(0), accelerator.num_processes)
        self.stopped = False

    def run(self) -> bool:
        """Train from the last checkpoint; True at the end, False where a signal stopped it (and all is saved)."""
        if self.resume():
            self.accelerator.print(f"resumed at step {self.position.step}")
        self.batches = self.pairs.stream(self._index(0), self.accelerator.num_processes)
        keeping, steps = self.recipe.keeping, self.recipe.optimization.steps
        with self._stop_on_signals(), Journal(self.recipe, self.position, self.accelerator) as journal:
            while self.position.step < steps and not self._stop_asked():
                began = time.monotonic()
                losses, panel = self._step()
                self.position.advance(time.monotonic() - began)
                journal.tell(losses, panel, float(self.schedulers[0].get_last_lr()[-1]))
                if self.position.step % keeping.save == 0 and self.position.step < steps:
                    self.checkpoints.save(self.position.step)
            self.checkpoints.save(self.position.step)  # still deaf to signals: launchers and people send them twice
        return self.position.step >= steps

    def resume(self) -> bool:
        """Load the last checkpoint; False if there is none."""
        found = self.checkpoints.resume()
        if found and self.average is not None:
            self.average.to(self.accelerator.device)  # accelerate loads what it does not know onto the CPU
        return found

    def exported(self) -> Omgsr:
        """The network to export: with averaged adapters where the recipe averages."""
        if self.average is not None:
            self.average.copy_to(self.adapters.values())
        unwrapped: Omgsr = self.accelerator.unwrap_model(self.omgsr)
        return unwrapped

    def _step(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """One step of each optimizer. Returns the losses of the last micro-step and its images, for the journal."""
        losses: dict[str, Tensor] = {}
        for micro in range(self.recipe.optimization.accumulate):
            index = self._index(micro)
            x_l, x_h = next(self.batches)
            with self.accelerator.accumulate(self.omgsr, *([self.critic] if self.critic else [])):
                restored, losses = self._generator_turn(x_l, x_h, index)
                if self.critic is not None and restored.x_p is not None:
                    losses["critic"] = self._critic_turn(x_h, restored.x_p.detach(), index)
        for scheduler in self.schedulers:
            scheduler.step()
        if self.average is not None:
            self.average.step(self.adapters.values())
        images = {"LQ": x_l, "HQ": x_h}
        if restored.x_p is not None:
            images["SR"] = restored.x_p.detach()
        return {name: loss.item() for name, loss in losses.items()}, images

    def _index(self, micro: int) -> int:
        """The batch of a micro-step: the same ones, whether a step is spread over processes or over micro-steps."""
        accumulated = self.position.step * self.recipe.optimization.accumulate + micro
        return int(accumulated * self.accelerator.num_processes + self.accelerator.process_index)

    def _generator_turn(self, x_l: Tensor, x_h: Tensor, index: int) -> tuple[Restored, dict[str, Tensor]]:
        restored = Restored(*self.omgsr(x_l, x_h))
        with self.accelerator.autocast():
            losses: dict[str, Tensor] = self.objective(restored, x_h, lambda x_p: self._critic_of(x_p, index))
        self._guard(losses)
        self._update(self.optimizers[0], losses["total"], list(self.adapters.values()))
        return restored, losses

    def _critic_of(self, x_p: Tensor, index: int) -> Tensor:
        critic: Discriminator = self.accelerator.unwrap_model(self.critic)
        return critic.generator_term(x_p, self._draw(index, "generator"))

    def _critic_turn(self, real: Tensor, fake: Tensor, index: int) -> Tensor:
        assert self.critic is not None
        critic: Discriminator = self.accelerator.unwrap_model(self.critic)
        with self.accelerator.autocast():
            loss: Tensor = self.critic(real, fake, self._draw(index, "critic"))
        self._guard({"critic": loss})
        self._update(self.optimizers[1], loss, list(critic.heads.parameters()))
        if self.accelerator.sync_gradients:
            critic.power_iteration()
        return loss

    def _draw(self, index: int, turn: str) -> torch.Generator:
        """The augmentation's randomness: of the micro-step alone, so that it need not be saved."""
        seed = (self.recipe.optimization.seed * 1_000_003 + index) * 2 + (turn == "critic")
        return torch.Generator().manual_seed(seed)

    def _update(self, optimizer: torch.optim.Optimizer, loss: Tensor, params: list[torch.nn.Parameter]) -> None:
        self.accelerator.backward(loss)
        if self.accelerator.sync_gradients:
            norm = self.accelerator.clip_grad_norm_(params, self.recipe.optimization.clip)
            self._guard({"the gradient": norm})
        optimizer.step()
        optimizer.zero_grad()

    def _guard(self, losses: Mapping[str, Tensor]) -> None:
        bad = [name for name, loss in losses.items() if not torch.isfinite(loss)]
        if bad:
            raise TrainingError(
                f"step {self.position.step + 1}: {', '.join(bad)} is not finite; nothing of this step was kept. Lower "
                "optimization.lr, or set optimization.precision to 'no', and name another `run`. To go on from this "
                "run's last checkpoint, first `omgsr train --export-only` it and name it in adapters.start."
            )

    def _stop_asked(self) -> bool:
        if self.stopped:
            self.accelerator.set_trigger()
        return bool(self.accelerator.check_trigger())  # one process was told: all stop at the same step

    @contextmanager
    def _stop_on_signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C end the run after the step in flight, so that what is saved is whole."""

        def stop(_number: int, _frame: FrameType | None) -> None:
            self.stopped = True

        handlers = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)


def generator_optimizer(opt: Optimization, trained: Mapping[str, torch.nn.Parameter]) -> AdamW:
    """AdamW over what is trained: the adapters, the encoder's at its own rate, and the decoder where it is."""
    factors = {"vae.autoencoder.encoder.": opt.encoder_lr_factor, "vae.": opt.decoder_lr_factor, "": 1.0}
    parts: dict[str, list[torch.nn.Parameter]] = {prefix: [] for prefix in factors}
    for name, param in trained.items():
        parts[next(prefix for prefix in factors if name.startswith(prefix))].append(param)
    groups = [{"params": params, "lr": opt.lr * factors[prefix]} for prefix, params in parts.items() if params]
    return AdamW(groups, betas=opt.betas, weight_decay=opt.weight_decay)


def learning_rate(opt: Optimization, step: int) -> float:
    """Factor on the peak rate at a step, counted from 0: linear warm-up, then constant or a cosine down to 0.02."""
    warm = min(1.0, (step + 1) / (opt.warmup + 1))
    if opt.schedule == "constant":
        return warm
    return warm * (0.51 + 0.49 * math.cos(math.pi * min(1.0, step / opt.steps)))
