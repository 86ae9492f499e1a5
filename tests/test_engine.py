"""Whose ops run next, and together: strangers share batches, and no one's fault is another's."""

from collections.abc import Generator, Sequence

import pytest
import torch
from torch import Tensor

from model.upscale import Decode, Encode, Op, Predict
from service.worker.batching import PATIENCE_S, Ready, Stage, pick
from service.worker.engine import Engine, Image


def ready(group: str, stage: Stage = Stage.PREDICT, *, priority: int = 0, since: float = 0.0, pixels: int = 0) -> Ready:
    return Ready(group, stage, priority, since, pixels)


def test_what_frees_memory_goes_first_then_priority_then_age() -> None:
    encode, predict, decode = (ready(stage.name, stage) for stage in (Stage.ENCODE, Stage.PREDICT, Stage.DECODE))
    assert pick([encode, predict, decode], 8, 100, now=1) == [decode]
    assert pick([encode, predict], 8, 100, now=1) == [predict]
    old, young, urgent = ready("a"), ready("b", since=0.5), ready("c", priority=3, since=0.9)
    assert pick([young, old], 8, 100, now=1) == [old]
    assert pick([young, old, urgent], 8, 100, now=1) == [urgent]
    assert pick([], 8, 100, now=1) == []


def test_what_has_waited_too_long_goes_before_all() -> None:
    late = ready("late", Stage.ENCODE, priority=-10)
    fresh = ready("fresh", Stage.DECODE, priority=10, since=PATIENCE_S)
    assert pick([fresh, late], 8, 100, now=PATIENCE_S + 0.1) == [late]


@pytest.mark.parametrize(
    ("waiting", "most", "taken"), [(1, 8, 1), (3, 8, 2), (7, 8, 4), (9, 8, 8), (9, 4, 4), (9, 6, 4)]
)
def test_batches_have_few_sizes_and_one_group(waiting: int, most: int, taken: int) -> None:
    ops = [ready("x", since=float(i)) for i in range(waiting)] + [ready("y", since=99.0)]
    assert pick(ops, most, 100, now=1) == ops[:taken]


@pytest.mark.parametrize(("pixels", "taken"), [(12, 8), (20, 4), (30, 2), (51, 1), (900, 1)])
def test_large_images_share_smaller_batches(pixels: int, taken: int) -> None:
    ops = [ready("x", Stage.DECODE, since=float(i), pixels=pixels) for i in range(9)]
    assert pick(ops, 8, 100, now=1) == ops[:taken]


class Doubler:
    """A device that doubles tensors, notes its batches, and cannot take a negative one."""

    def __init__(self) -> None:
        self.batches: list[tuple[type[Op], int]] = []

    def execute(self, ops: Sequence[Op]) -> list[Tensor]:
        self.batches.append((type(ops[0]), len(ops)))
        if any(float(op.tensor.min()) < 0 for op in ops):
            raise RuntimeError("negative")
        return [2 * op.tensor for op in ops]


def steps(value: float, tiles: int) -> Generator[Sequence[Op], Sequence[Tensor], Tensor]:
    (z,) = yield [Encode(torch.tensor([[abs(value)]]))]
    predictions = yield [Predict(z.sign() * value + index) for index in range(tiles)]
    (decoded,) = yield [Decode(torch.stack(list(predictions)).sum(0))]
    return decoded


def image(value: float, tiles: int, counted: list[int] | None = None) -> Image:
    return Image("m", steps(value, tiles), 0, (counted if counted is not None else []).append)


def finish(engine: Engine, *images: Image) -> None:
    for each in images:
        engine.submit(each)
    engine._take_in(wait=False)
    while engine._ready:
        engine.step()


def test_tiles_of_strangers_share_batches_and_each_gets_its_own_results() -> None:
    device, counted = Doubler(), list[int]()
    one, two = image(1, 3, counted), image(5, 1)
    finish(Engine({"m": device}, 4, 1000), one, two)
    assert float(one.outcome.result()) == 2 * 2 * (1 + 2 + 3)
    assert float(two.outcome.result()) == 2 * 2 * 5
    assert device.batches == [(Encode, 2), (Predict, 4), (Decode, 2)]
    assert counted == [1, 2, 3]
    assert one.seconds.keys() == {"encode", "predict", "decode"}


def test_an_encode_counts_its_pixels_and_a_decode_those_it_will_make() -> None:
    device = Doubler()
    finish(Engine({"m": device}, 4, 8 * 8), image(1, 1), image(5, 1))
    assert device.batches == [(Encode, 2), (Predict, 2), (Decode, 1), (Decode, 1)]


def test_only_the_culprit_fails() -> None:
    good, bad, other = image(1, 2), image(-9, 1), image(2, 1)
    finish(Engine({"m": Doubler()}, 4, 1000), good, bad, other)
    assert float(good.outcome.result()) == 2 * 2 * (1 + 2)
    assert float(other.outcome.result()) == 2 * 2 * 2
    with pytest.raises(RuntimeError, match="negative"):
        bad.outcome.result()


def test_a_cancelled_image_costs_no_further_batch() -> None:
    device = Doubler()
    engine, dropped, kept = Engine({"m": device}, 1, 1000), image(1, 50), image(2, 1)
    engine.submit(dropped)
    engine._take_in(wait=False)
    for _ in range(3):
        engine.step()
    dropped.outcome.cancel()
    finish(engine, kept)
    assert float(kept.outcome.result()) == 8
    assert len(device.batches) == 3 + 3
