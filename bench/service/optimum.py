"""The best choice of batches there is on a server that loses no time: what of a request's wait no scheduler can save.

A semi-Markov decision process: the state is how many ops of each stage are ready, a choice is a batch or to wait for
the next image, and the mean number of images at hand is made as small as can be (so is, by Little's law, their mean
time). Solved by value iteration, then tried on images that come at random moments, the oldest first.
"""

import math

import numpy as np
from numpy.typing import NDArray

from bench.service.ideal import batch_s, moments
from service.worker.batching import BATCH_SIZES, Stage

Values = NDArray[np.float64]
MOST = 18
"""Ops of one stage that the state counts; more are as many."""
ORDER = (Stage.ENCODE, Stage.PREDICT, Stage.DECODE)
BATCHES = [(stage, size) for stage in range(len(ORDER)) for size in BATCH_SIZES]
STEP_S = 0.02
"""Of the discrete chain that has the same best choices; less than the shortest choice takes."""
SWEEPS = 100
"""Four times as many change no p99 by a millisecond."""


def seconds(per_second: float, count: int = 20_000, seed: int = 0) -> list[float]:
    """From arrival to end, of so many images."""
    now, arrivals = 0.0, moments(per_second, count, seed)
    best, ready, come, taken = _best(per_second), [list[int]() for _ in ORDER], 0, list[float]()
    while len(taken) < count:
        while come < count and arrivals[come] <= now:
            ready[0].append(come)
            come += 1
        choice = int(best[tuple(min(len(ops), MOST) for ops in ready)])
        if choice == len(BATCHES) and come < count:
            now = arrivals[come]
            continue
        stage, size = BATCHES[choice] if choice < len(BATCHES) else _any(ready)
        batch, ready[stage] = ready[stage][:size], ready[stage][size:]
        now += batch_s(size)
        if stage + 1 < len(ORDER):
            ready[stage + 1] = sorted(ready[stage + 1] + batch)
        else:
            taken += [now - arrivals[image] for image in batch]
    return taken


def _best(per_second: float) -> NDArray[np.intp]:
    """For each state the number of the best choice: a place in BATCHES, or behind them to wait."""
    value = np.zeros((MOST + 1,) * len(ORDER))
    for _ in range(SWEEPS):
        gain = _costs(value, per_second).min(0)
        value += STEP_S * (gain - gain[0, 0, 0])
    return _costs(value, per_second).argmin(0)


def _costs(value: Values, per_second: float) -> Values:
    """[choice, …state]: images at hand, and the value won or lost, for each second that a choice takes."""
    counts = np.indices(value.shape)
    images, costs = counts.sum(0), []
    for stage, size in BATCHES:
        lasts = batch_s(size)
        after = counts.copy()
        after[stage] -= size
        if stage + 1 < len(ORDER):
            after[stage + 1] += size
        meanwhile = images + per_second * lasts / 2
        then = _expected(value, per_second * lasts)[tuple(after.clip(0, MOST))]
        costs.append(np.where(counts[stage] >= size, meanwhile + (then - value) / lasts, np.inf))
    wait = images + (_arrived(value, 1) - value) * per_second
    return np.stack([*costs, wait])


def _expected(value: Values, mean: float) -> Values:
    """The value after a Poisson number of arrivals."""
    shares = [math.exp(-mean) * mean**count / math.factorial(count) for count in range(MOST)]
    return np.sum([share * _arrived(value, count) for count, share in enumerate(shares)], axis=0)


def _arrived(value: Values, count: int) -> Values:
    return value[np.minimum(np.arange(MOST + 1) + count, MOST)]


def _any(ready: list[list[int]]) -> tuple[int, int]:
    return next((stage, 1) for stage, ops in enumerate(ready) if ops)
