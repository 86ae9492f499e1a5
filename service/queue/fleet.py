"""Who serves, and what waits for them."""

from dataclasses import dataclass
from typing import Any, Self

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
    stored_bytes: int
    """Files and results that are kept."""
    dead: int
    """Dead letters."""

    @classmethod
    def of(cls, answer: list[Any]) -> Self:
        """The fleet as the script tells it."""
        workers, stored_bytes, dead, *rows = answer
        fleet = cls(int(workers), {}, {}, {}, int(stored_bytes), int(dead))
        for text, waiting, megapixels, speed in zip(*(rows[n::4] for n in range(4)), strict=True):
            info = VariantInfo.model_validate_json(text)
            if speed:
                info = info.model_copy(update={"seconds_per_megapixel": float(speed)})
            fleet.variants[info.name] = info
            fleet.depth[info.name] = int(waiting)
            fleet.backlog_s[info.name] = float(megapixels) * float(speed or 0)
        return fleet
