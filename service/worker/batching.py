"""Which ops run next, as one batch: a pure function of what is ready and the time."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

PATIENCE_S = 2.0
"""An op that has waited longer goes before all others, whatever its stage or priority."""

BATCH_SIZES = (8, 4, 2, 1)
"""Few shapes: each is compiled, warmed and tuned once."""


class Stage(IntEnum):
    """What sets an image's memory free soonest comes first."""

    DECODE = 0
    PREDICT = 1
    ENCODE = 2


@dataclass(frozen=True, eq=False)
class Ready:
    """What the choice needs to know of an op that could run now."""

    group: Hashable
    """Variant, kind and shape: ops of equal group may share a batch."""
    stage: Stage
    priority: int
    since: float
    """Seconds on the clock of `now`."""
    pixels: int
    """What the op adds to its batch's size in memory; 0 where the number of ops says enough."""


R = TypeVar("R", bound=Ready)


def pick(ready: Sequence[R], max_batch: int, max_pixels: int, now: float) -> list[R]:
    """The most urgent op and those that can go with it, the most urgent of them first.

    They are at most `max_batch`, and their pixels at most `max_pixels` unless the first alone has more.
    """
    if not ready:
        return []

    def urgency(op: R) -> tuple[bool, int, int, float]:
        return (now - op.since <= PATIENCE_S, op.stage, -op.priority, op.since)

    first = min(ready, key=urgency)
    companions = sorted((op for op in ready if op.group == first.group), key=urgency)
    roomy = max(1, max_pixels // first.pixels) if first.pixels else max_batch
    fits = min(len(companions), max_batch, roomy)
    return companions[: next(size for size in BATCH_SIZES if size <= fits)]
