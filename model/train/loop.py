"""The training loop that every stage shares: schedule, averaged weights, progress lines, checkpoints, resume."""

import math
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, nn

from model.train import checkpoint
from model.train.config import Stage
from model.train.muon import Muon

Losses = Mapping[str, Tensor]
"""Named terms of a step; ``total`` is the one that is minimised."""
StepLosses = Callable[[int, int, int], Losses]
"""(step, batch size, crop side) → losses of that step."""
ADAMW_ONLY = (
    "conv_in",
    "conv_out",
    "quant_conv",
    "x_embedder",
    "context_embedder",
    "lora_",
)  # first, last and low-rank layers: Muon harms them


class Loop:
    """Trains the named parameters for one stage; ``run`` returns their averaged values.

    A checkpoint in ``folder`` is resumed from always: delete the folder to start again.
    """

    def __init__(self, name: str, stage: Stage, folder: Path, params: Mapping[str, nn.Parameter]) -> None:
        self.name, self.stage, self.params = name, stage, dict(params)
        self.path = folder / f"{name}.safetensors"
        self.optimizers = build_optimizers(stage, self.params)
        self.peaks = [group["lr"] for optimizer in self.optimizers for group in optimizer.param_groups]
        self.average = {key: param.detach().clone() for key, param in self.params.items()}
        self.step, self.seconds, self.stopped = 0, 0.0, False
        if self.path.exists():
            self._resume()

    def run(self, losses_of: StepLosses) -> dict[str, Tensor]:
        """Steps until the budget is spent; SIGTERM and Ctrl-C save and stop."""
        handlers = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        saved = self.seconds
        while self.progress < 1 and not self.stopped:
            began = time.monotonic()
            losses = self._step(losses_of)
            self.seconds += time.monotonic() - began
            if self.step % self.stage.log_steps == 0:
                self._report(losses)
            if self.seconds - saved > self.stage.save_minutes * 60:
                self._save()
                saved = self.seconds
        self._save()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if self.stopped:
            raise SystemExit(f"{self.name}: stopped at step {self.step}, saved; run again to resume")
        return self.average

    @property
    def progress(self) -> float:
        """Share of the budget that is spent, 0…1."""
        if self.stage.steps is not None:
            return min(1.0, self.step / self.stage.steps)
        assert self.stage.minutes is not None  # the config holds exactly one budget
        return min(1.0, self.seconds / (self.stage.minutes * 60))

    def _step(self, losses_of: StepLosses) -> Losses:
        part = min(int(self.progress * len(self.stage.crop)), len(self.stage.crop) - 1)
        self._set_learning_rates()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        losses = losses_of(self.step, self.stage.batch[part], self.stage.crop[part])
        losses["total"].backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.params.values(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        # Young weights are worthless, so the average forgets faster at first.
        decay = min(self.stage.ema, self.step / (self.step + 10))
        average, current = list(self.average.values()), [param.detach() for param in self.params.values()]
        torch._foreach_lerp_(average, current, 1 - decay)
        return losses

    def _set_learning_rates(self) -> None:
        warmup = min(1.0, (self.step + 1) / (self.stage.warmup_steps + 1))
        cosine = (1 + math.cos(math.pi * self.progress)) / 2
        factor = warmup * (self.stage.final_lr + (1 - self.stage.final_lr) * cosine)
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        for group, peak in zip(groups, self.peaks, strict=True):
            group["lr"] = peak * factor

    def _report(self, losses: Losses) -> None:
        terms = " ".join(f"{key} {value.item():.4f}" for key, value in losses.items())
        spent = f"{self.seconds / 60:.1f} min, {self.progress:.1%}"
        print(f"{self.name} step {self.step} ({spent}): {terms}", flush=True)  # noqa: T201

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stopped = True  # the step in flight ends first, so the saved state is whole

    def _save(self) -> None:
        tensors = checkpoint.with_prefix("param", self.params) | checkpoint.with_prefix("average", self.average)
        for index, optimizer in enumerate(self.optimizers):
            tensors |= checkpoint.with_prefix(f"opt{index}", checkpoint.optimizer_tensors(optimizer))
        checkpoint.save(self.path, tensors, self._meta())

    def _meta(self) -> dict[str, float | bool]:
        return {"step": self.step, "seconds": self.seconds, "done": self.progress >= 1}

    def _resume(self) -> None:
        tensors, meta = checkpoint.load(self.path)
        with torch.no_grad():
            for key, value in checkpoint.under_prefix("param", tensors).items():
                self.params[key].copy_(value)
        average = checkpoint.under_prefix("average", tensors)
        self.average = {key: average[key] for key in self.params}  # in the order of params: a file sorts its names
        for index, optimizer in enumerate(self.optimizers):
            checkpoint.restore_optimizer(optimizer, checkpoint.under_prefix(f"opt{index}", tensors))
        self.step, self.seconds = meta["step"], meta["seconds"]
        print(f"{self.name}: resumed at step {self.step}", flush=True)  # noqa: T201


def build_optimizers(stage: Stage, params: Mapping[str, nn.Parameter]) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the hidden matrices and AdamW for the rest."""
    hidden = {
        key
        for key, param in params.items()
        if stage.muon_lr is not None and param.ndim >= 2 and not any(part in key for part in ADAMW_ONLY)
    }
    groups: dict[float, list[nn.Parameter]] = {}
    for key, param in params.items():
        if key not in hidden:
            factor = next((value for start, value in stage.lr_factors.items() if key.startswith(start)), 1.0)
            groups.setdefault(factor, []).append(param)
    optimizers: list[torch.optim.Optimizer] = []
    if groups:
        rates = [{"params": group, "lr": stage.lr * factor} for factor, group in groups.items()]
        optimizers.append(torch.optim.AdamW(rates, betas=(0.9, 0.99), weight_decay=0.01))
    if hidden and stage.muon_lr is not None:
        optimizers.append(Muon([param for key, param in params.items() if key in hidden], lr=stage.muon_lr))
    return optimizers


@torch.no_grad()
def assign(params: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    """Writes ``values`` into the parameters of the same names."""
    for key, value in values.items():
        params[key].copy_(value)
