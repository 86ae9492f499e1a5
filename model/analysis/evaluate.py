"""Evaluation over a set: pairs of damaged and original images, results by a model or others, every metric on each."""

import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor

from model.analysis.metrics import Judges, NotRun, Score
from model.errors import DataError
from model.pipeline import OMGSRPipeline, to_pixels
from model.plan import output_size

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff", ".bmp"}
MARK = re.compile(r"(_x|(?<=\d)x)\d+$|_(lr\d*|hr)$", re.IGNORECASE)
NAMES_TOLD = 20

T = TypeVar("T")


class UnfitImages(DataError):
    """The images cannot be compared; the message names them and says what would fit."""


@dataclass(frozen=True)
class Pair:
    """A damaged small image and its original."""

    name: str
    low: Path
    high: Path
    size: tuple[int, int]
    """Width and height of the original."""
    scale: float


@dataclass(frozen=True)
class Scored:
    """One method's result for one pair."""

    pair: Pair
    file: Path
    seconds: float | None
    scores: dict[str, Score]


@dataclass(frozen=True)
class Outcome:
    """One method on the whole set."""

    method: str
    images: list[Scored]
    of_set: dict[str, Score]

    def mean(self, metric: str) -> Score:
        """Over the images that have a number; FID is of the set. Not run where there is none."""
        if metric in self.of_set:
            return self.of_set[metric]
        scores = [one.scores[metric] for one in self.images]
        numbers = [score for score in scores if isinstance(score, float)]
        return math.fsum(numbers) / len(numbers) if numbers else scores[0]

    @property
    def seconds(self) -> float | None:
        """Mean time of an image, None where nothing was timed."""
        times = [one.seconds for one in self.images if one.seconds is not None]
        return math.fsum(times) / len(times) if times else None


Produce = Callable[[Pair], tuple[Path, float | None]]
"""Makes or finds the result for a pair: its file, and the seconds that it took."""


@dataclass(frozen=True)
class Method:
    """Where results come from."""

    name: str
    told: str
    """A sentence for the report."""
    produce: Produce


def find_pairs(lq: Path, hq: Path) -> list[Pair]:
    """Match the images of two folders by name: `NAME_x4.png` or `NAME.png` to `NAME.*`; in order of name.

    `_LR4` and `_HR`, as RealSR has them, are marks like `_x4`. One folder may hold both kinds: then the marked ones are
    the damaged. Raises UnfitImages for names without a partner, and for sizes that no one scale of 1 … 8 explains.
    """
    lows, highs = image_files(lq), image_files(hq)
    if lq.samefile(hq):
        lows, highs = ([file for file in lows if bool(MARK.search(file.stem)) is marked] for marked in (True, False))
    return [_pair(low, high) for low, high in match(lows, highs)]


def image_files(folder: Path) -> list[Path]:
    """The images in a folder, not below it, in order of name. Raises UnfitImages where there are none."""
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    if not files:
        raise UnfitImages(f"there are no images in {folder}")
    return files


def match(files: Sequence[Path], originals: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Each file with its original: stems equal, as they are or all without their marks.

    Raises UnfitImages that lists the names without a partner and the ones that several files have.
    """
    for name in (lambda file: file.stem, _bare):
        here, there = _by_name(files, name), _by_name(originals, name)
        if here.keys() == there.keys() and len(here) == len(files) and len(there) == len(originals):
            return [(here[key][0], there[key][0]) for key in sorted(here)]
    faults = {
        "without an original": [file for key in here.keys() - there.keys() for file in here[key]],
        "without a partner among the images": [file for key in there.keys() - here.keys() for file in there[key]],
        "of one name": [file for group in (*here.values(), *there.values()) if len(group) > 1 for file in group],
    }
    told = "; ".join(f"{fault}: {_names(found)}" for fault, found in faults.items() if found)
    raise UnfitImages(f"the names do not match. {told[0].upper()}{told[1:]}")


def evaluate(method: Method, pairs: Sequence[Pair], judges: Judges, done: Callable[[], None] = lambda: None) -> Outcome:
    """Have a method's result for each pair judged by every metric; `done` is called after each image.

    Raises UnfitImages for a result that cannot be read or has not its original's size.
    """
    scored = []
    for pair in pairs:
        file, seconds = method.produce(pair)
        scored.append(Scored(pair, file, seconds, _judge(file, pair, judges)))
        done()
    files, originals = [one.file for one in scored], [pair.high for pair in pairs]
    of_set = {name: _attempt(measure, files, originals) for name, measure in judges.sets.items()}
    return Outcome(method.name, scored, {**of_set, **judges.missing_of_set})


def by_model(pipe: OMGSRPipeline, name: str, folder: Path, color_fix: str | None = None) -> Method:
    """Results of a pipeline, one image at a time, saved as `folder`/`name`/NAME.png."""
    fix = color_fix or pipe.color_fix
    told = f"{name}: t_m {pipe.mid_timestep}, colour fix {fix}, on {pipe.device.type}."
    return Method(name, told, saved(folder / name, lambda low, at: pipe([low], scale=at.scale, color_fix=fix)[0]))


def by_bicubic(folder: Path) -> Method:
    """Bicubic enlargements, saved as `folder`/bicubic/NAME.png."""
    enlarge = saved(folder / "bicubic", lambda low, at: low.resize(at.size, Image.Resampling.BICUBIC))
    return Method("bicubic", "bicubic: Pillow's enlargement of the small image.", enlarge)


def by_files(folder: Path, pairs: Sequence[Pair]) -> Method:
    """Results that exist, matched to the originals by name. Raises UnfitImages as `match` does."""
    files = {original: file for file, original in match(image_files(folder), [pair.high for pair in pairs])}
    name = folder.resolve().name
    return Method(name, f"{name}: finished results of {folder}.", lambda pair: (files[pair.high], None))


def read(file: Path) -> Image.Image:
    """An image as RGB. Raises UnfitImages if it cannot be read."""
    with _opened(file) as image:
        return image.convert("RGB")


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(file) as image:
            yield image
    except (OSError, ValueError) as error:
        raise UnfitImages(f"{file} cannot be read: {error}") from error


def saved(folder: Path, make: Callable[[Image.Image, Pair], Image.Image]) -> Produce:
    """Results that `make` makes of the small image, timed (without files) and saved as `folder`/NAME.png."""
    folder.mkdir(parents=True, exist_ok=True)

    def produce(pair: Pair) -> tuple[Path, float]:
        low, file = read(pair.low), folder / f"{pair.name}.png"
        began = time.perf_counter()
        image = make(low, pair)
        seconds = time.perf_counter() - began
        image.save(file)
        return file, seconds

    return produce


@torch.no_grad()
def _judge(file: Path, pair: Pair, judges: Judges) -> dict[str, Score]:
    image = read(file)
    if image.size != pair.size:
        raise UnfitImages(f"{file} has {_sides(image.size)} pixels, its original {pair.high} {_sides(pair.size)}")
    both = _tensor(image), _tensor(read(pair.high))
    scores = {name: _attempt(measure, *both) for name, measure in judges.images.items()}
    return {**scores, **judges.missing_of_images}


def _attempt(measure: Callable[[T, T], float], first: T, second: T) -> Score:
    try:
        number = measure(first, second)
    except (ValueError, RuntimeError) as error:  # too small an image, too little memory
        return NotRun(str(error))
    return NotRun("it gave no number") if math.isnan(number) else number


def _pair(low: Path, high: Path) -> Pair:
    with _opened(low) as one, _opened(high) as other:
        small, large = one.size, other.size
    for scale in (large[0] / small[0], large[1] / small[1]):
        if 1 <= scale <= 8 and output_size(small, scale) == large:
            return Pair(high.stem, low, high, large, scale)
    raise UnfitImages(
        f"no scale of 1 … 8 makes {_sides(large)} pixels ({high}) of {_sides(small)} ({low}): "
        "originals must be the small images' size times one number"
    )


def _by_name(files: Sequence[Path], name: Callable[[Path], str]) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = {}
    for file in files:
        groups.setdefault(name(file), []).append(file)
    return groups


def _bare(file: Path) -> str:
    return MARK.sub("", file.stem)


def _names(files: Sequence[Path]) -> str:
    names = sorted(file.name for file in files)
    more = f" and {len(names) - NAMES_TOLD} more" if len(names) > NAMES_TOLD else ""
    return ", ".join(names[:NAMES_TOLD]) + more


def _sides(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"


def _tensor(image: Image.Image) -> Tensor:
    return to_pixels(image)[None] * 2 - 1
