"""Checkpoints from which a run goes on exactly: adapters, discriminator, optimizers, schedules, position, RNG."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.train.omgsr import Omgsr

PARTIAL = ".partial"


class Position:
    """How far a run is; the data's position follows from the step."""

    def __init__(self) -> None:
        self.step, self.seconds = 0, 0.0

    def advance(self, seconds: float) -> None:
        """One optimizer step is done and took so long."""
        self.step += 1
        self.seconds += seconds

    def state_dict(self) -> dict[str, float]:
        """For the checkpoint."""
        return {"step": self.step, "seconds": self.seconds}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Inverse of `state_dict`."""
        self.step, self.seconds = int(state["step"]), state["seconds"]


class Checkpoints:
    """The last few checkpoints of a run, each a folder that is renamed into place when it is whole."""

    def __init__(self, folder: Path, keep: int, accelerator: Accelerator) -> None:
        self.folder, self.keep, self.accelerator = folder, keep, accelerator
        accelerator.register_save_state_pre_hook(self._save_trained)
        accelerator.register_load_state_pre_hook(self._load_trained)

    def save(self, step: int) -> None:
        """Write the state after `step` steps and forget the oldest checkpoints; nothing if it is there already."""
        target = self.folder / f"step-{step:07d}"
        if target.is_dir():
            return
        partial = target.with_suffix(PARTIAL)
        if self.accelerator.is_main_process:
            for broken in self.folder.glob(f"*{PARTIAL}"):  # of a run that was killed while it saved
                shutil.rmtree(broken)
            partial.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(partial))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            partial.rename(target)
            for old in self.found()[: -self.keep]:
                shutil.rmtree(old)

    def resume(self) -> bool:
        """Load the last checkpoint; False if there is none."""
        if not self.found():
            return False
        self.accelerator.load_state(str(self.found()[-1]))
        return True

    def found(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        return sorted(path for path in self.folder.glob("step-*") if path.suffix != PARTIAL)

    def _save_trained(self, models: list[nn.Module], weights: list[Any], folder: str) -> None:
        """Only what is trained is written: the base is gigabytes, and lies on disk already."""
        if self.accelerator.is_main_process:
            for index, model in enumerate(models):
                tensors = {name: tensor.detach().contiguous() for name, tensor in self._trained(model).items()}
                save_file(tensors, Path(folder) / f"trained-{index}.safetensors")
        weights.clear()

    @torch.no_grad()
    def _load_trained(self, models: list[nn.Module], folder: str) -> None:
        for index, model in enumerate(models):
            own, saved = self._trained(model), load_file(Path(folder) / f"trained-{index}.safetensors")
            for name, tensor in own.items():
                tensor.copy_(saved[name])
        models.clear()

    def _trained(self, model: nn.Module) -> Mapping[str, Tensor]:
        """The tensors of a prepared model that training changes: adapters, or heads with their buffers."""
        unwrapped = self.accelerator.unwrap_model(model)
        if isinstance(unwrapped, Omgsr):
            return unwrapped.adapters()
        heads: nn.Module = unwrapped.heads
        return heads.state_dict()
