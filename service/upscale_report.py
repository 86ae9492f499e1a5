"""What `omgsr upscale` shows while it works, and what it says at the end."""

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from service.errands import Errand, Plan
from service.errors import ServiceError

_console = Console(stderr=True, highlight=False)


class Report:
    """A bar with the time left while the block runs; after it, a line for every file that failed, and what to do."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._failures = [f"{error.filename}: {error.strerror}" for error in plan.unreadable]
        self._made, self._megapixels = 0, 0.0
        self._under_way: dict[Errand, float] = {}
        self._began = time.monotonic()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
        )
        self._bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=_console)
        self._task = self._bar.add_task("upscaling", total=len(plan.errands), speed="")

    @property
    def failed(self) -> int:
        """How many files could not be upscaled."""
        return len(self._failures)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.update(self._task, description="stopped" if error else "done")
        self._bar.stop()
        _left_aside("exists already", self._plan.existing, "; --overwrite replaces")
        _left_aside("not a photo", self._plan.no_photos)
        for failure in self._failures:
            _console.print(f"failed: {failure}", markup=False, soft_wrap=True)
        if isinstance(error, KeyboardInterrupt):
            left = len(self._plan.errands) - self._made - self.failed
            _console.print(f"Stopped; {left} are left. The same command goes on from here.", soft_wrap=True)

    def say(self, text: str) -> None:
        """What it is about at the moment, in front of the bar."""
        self._bar.update(self._task, description=escape(text))

    def working(self, errand: Errand, share: float) -> None:
        """That share of the file (0 … 1) is done: a large photo moves the bar tile by tile."""
        self._under_way[errand] = share
        self._show()

    def made(self, errand: Errand) -> None:
        """The result is there."""
        self._megapixels += _megapixels(errand.target)
        self._made += 1
        self._under_way.pop(errand, None)
        self._show()

    def failure(self, errand: Errand, error: Exception) -> None:
        """The file could not be upscaled; the others go on."""
        why = f"{error.detail} {error.advice}" if isinstance(error, ServiceError) else _words(error)
        self._failures.append(f"{errand.source}: {why}")
        self._under_way.pop(errand, None)
        self._show()

    def _show(self) -> None:
        rate = self._megapixels / max(time.monotonic() - self._began, 1e-3)
        done = self._made + self.failed - len(self._plan.unreadable) + sum(self._under_way.values())
        self._bar.update(self._task, completed=done, speed=f"{rate:.2f} MP/s" if self._made else "")


def _megapixels(path: Path) -> float:
    try:
        with Image.open(path) as image:  # reads its header alone
            return image.width * image.height / 1e6
    except (OSError, Image.DecompressionBombError):
        return 0.0


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or "not enough memory"


def _left_aside(why: str, paths: Sequence[Path], advice: str = "") -> None:
    if paths:
        others = f" (and {len(paths) - 1} more)" if len(paths) > 1 else ""
        _console.print(f"skipped, {why}: {paths[0]}{others}{advice}", markup=False, soft_wrap=True)
