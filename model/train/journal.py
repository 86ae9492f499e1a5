"""What a run says of itself: a progress bar with the time left, TensorBoard scalars, and LQ/SR/HQ panels."""

from types import TracebackType
from typing import Self

from accelerate import Accelerator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from model.train.recipe import Recipe
from model.train.resume import Position

PANEL_ROWS = 4


class Journal:
    """Open while the run goes on; only the main process writes."""

    def __init__(self, recipe: Recipe, position: Position, accelerator: Accelerator) -> None:
        self.keeping, self.position, self.main = recipe.keeping, position, accelerator.is_main_process
        # A killed run has told of steps that its next part goes through again.
        purge = position.step + 1
        self.writer = SummaryWriter(str(recipe.run / "tensorboard"), purge_step=purge) if self.main else None
        self.console = Console(highlight=False)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=self.console, disable=not self.main or not self.console.is_terminal)
        self.task = self.progress.add_task("training", total=recipe.optimization.steps, completed=position.step)

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.progress.stop()
        if self.writer is not None:
            self.writer.close()

    def tell(self, losses: dict[str, float], images: dict[str, Tensor], lr: float) -> None:
        """After a step: its losses, its images [B,3,H,W] in [-1,1] by name, and the learning rate."""
        self.progress.update(self.task, completed=self.position.step)
        if self.writer is None:
            return
        step = self.position.step
        if step % self.keeping.log == 0:
            for name, value in {**losses, "lr": lr}.items():
                self.writer.add_scalar(name, value, step)
            terms = "  ".join(f"{name} {value:.4f}" for name, value in losses.items())
            minutes = self.position.seconds / 60
            self.progress.console.print(f"step {step}  {minutes:.1f} min  {terms}", soft_wrap=True)
        if step % self.keeping.panels == 0:
            for name, batch in images.items():
                self.writer.add_images(name, (batch[:PANEL_ROWS].float().clamp(-1, 1) + 1) / 2, step)
