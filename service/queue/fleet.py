"""Who serves, and what waits for them."""

from dataclasses import dataclass
from typing import Any, Self

from pydantic import ValidationError

from service.job import VariantInfo


@dataclass(frozen=True)
class Fleet:
    """The whole service at one moment."""

    workers: int
    """Those with a fresh heartbeat."""
    variants: dict[str, VariantInfo]
    """What they serve, by name, then what they served of late (a replacement may be on its way)."""
    depth: dict[str, int]
    """Jobs that wait, by variant."""
    backlog_s: dict[str, float]
    """Device seconds that those will take, by variant; 0 while its speed is not known."""
    age_s: dict[str, float]
    """Seconds since the oldest of those was submitted, by variant; 0 when none waits."""
    stored_bytes: int
    """Files and results that are kept."""
    dead: int
    """Dead letters."""

    @classmethod
    def of(cls, answer: list[Any]) -> Self:
        """The fleet as the script tells it."""
        workers, stored_bytes, dead, *rows = answer
        fleet = cls(int(workers), {}, {}, {}, {}, int(stored_bytes), int(dead))
        for text, waiting, megapixels, age_s, speed in zip(*(rows[n::5] for n in range(5)), strict=True):
            try:
                info = VariantInfo.read(text)
            except ValidationError:  # a newer release's: not for this one to offer
                continue
            if speed:
                info = info.model_copy(update={"seconds_per_megapixel": float(speed)})
            name = info.name  # a variant has a row for each of its lines; the first is that of format 1
            fleet.variants.setdefault(name, info)
            fleet.depth[name] = fleet.depth.get(name, 0) + int(waiting)
            fleet.backlog_s[name] = fleet.backlog_s.get(name, 0.0) + float(megapixels) * float(speed or 0)
            fleet.age_s[name] = max(fleet.age_s.get(name, 0.0), float(age_s))
        return fleet


@dataclass(frozen=True)
class Memory:
    """What the queue's server holds in memory."""

    used_bytes: int
    limit_bytes: int
    """What it may use (`maxmemory`); 0: it has no bound."""

    @classmethod
    def of(cls, answer: list[str] | None) -> Self | None:
        """As the script tells it; None when the server keeps it to itself."""
        return cls(int(answer[0]), int(answer[1])) if answer else None
