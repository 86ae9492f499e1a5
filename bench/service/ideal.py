"""The worker's own choice of batches on a server that loses no time: what of a request's wait no service can save.

Images of one tile come at random moments. A batch of n ops takes what the stub device does; there are no files, no
HTTP, and nothing between two batches.
"""

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

from service.worker.batching import Policy, Ready, Stage, pick

AFTER = {Stage.ENCODE: Stage.PREDICT, Stage.PREDICT: Stage.DECODE}


@dataclass(frozen=True)
class Request:
    """An image that is done."""

    seconds: float
    """From its arrival to its end."""
    waited_s: float
    """Of them: for its three batches to begin."""


@dataclass(frozen=True, eq=False)
class _Op(Ready):
    image: int


def requests(per_second: float, policy: Policy, *, count: int = 20_000, seed: int = 0) -> list[Request]:
    """What so many images meet, in the order in which they end."""
    now, arrivals = 0.0, moments(per_second, count, seed)
    ready, waited, done, come = list[_Op](), Counter[int](), list[Request](), 0
    while len(done) < count:
        while come < count and arrivals[come] <= now:
            ready.append(_op(Stage.ENCODE, arrivals[come], come))
            come += 1
        choice = pick(ready, policy, free_bytes=1, used={}, coming=_coming(ready), now=now)
        if not choice.batch:
            now = min(arrivals[come : come + 1] + [each for each in [choice.look_again] if each is not None])
            continue
        for op in choice.batch:
            ready.remove(op)
            waited[op.image] += now - op.since
        now += batch_s(len(choice.batch))
        for op in choice.batch:
            if op.stage is Stage.DECODE:
                done.append(Request(now - arrivals[op.image], waited[op.image]))
            else:
                ready.append(_op(AFTER[op.stage], now, op.image))
    return done


def moments(per_second: float, count: int, seed: int) -> list[float]:
    """When so many images come, at random."""
    draw = random.Random(seed)
    return list(accumulate(draw.expovariate(per_second) for _ in range(count)))


def batch_s(size: int) -> float:
    """Of the stub device."""
    return (20 + 5 * size) / 1000


def _op(stage: Stage, since: float, image: int) -> _Op:
    return _Op(stage, stage, 0, "", since, bytes=0, most=8, image=image)


def _coming(ready: Iterable[_Op]) -> Counter[Stage]:
    """As the Engine counts it: what an image's ops at hand will bring."""
    coming: Counter[Stage] = Counter()
    for op in ready:
        coming.update(stage for stage in Stage if stage < op.stage)
    return coming
