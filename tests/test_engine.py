"""The device thread: strangers share batches, no one's fault is another's, and memory is given only where there is."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from model.plan import BytesPerPixel, Work, lone_bytes
from model.upscale import Decode, Encode, Op, Predict, Steps
from service.errors import OutOfMemory
from service.telemetry import BATCH_WAIT
from service.worker.batching import Policy
from service.worker.engine import STARVED, Engine
from service.worker.execution import DeviceLost
from service.worker.image import Image

EACH = BytesPerPixel(encode=10, predict=10, decode=10)
ENDS_S = 20


class Doubler:
    """A device that doubles tensors and notes its batches. It cannot take a negative one, and but few at once."""

    def __init__(self, most: int = 8, before: Callable[[], None] = lambda: None) -> None:
        self.batches: list[tuple[type[Op], int]] = []
        self._most = most
        self._before = before

    def execute(self, ops: Sequence[Op]) -> list[Tensor]:
        self._before()
        self.batches.append((type(ops[0]), len(ops)))
        if any(float(op.tensor.min()) < 0 for op in ops):
            raise RuntimeError("negative")
        if len(ops) > self._most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return [2 * op.tensor for op in ops]


def works(tiles: int, side: int = 8) -> list[Work]:
    return [Work("encode", side, side), Work("predict", 8, 8, tiles), Work("decode", side, side)]


def steps(value: float, tiles: int, side: int = 8) -> Steps:
    (z,) = yield [Encode(torch.full((1, side, side), abs(value)))]
    tile = z[:, :1, :1].sign() * value
    predictions = yield [Predict(tile + index) for index in range(tiles)]
    (decoded,) = yield [Decode(sum(predictions[1:], predictions[0]).expand(1, side // 8, side // 8))]
    return decoded[0, :1, :1]


def image(tiles: int, counted: list[int] | None = None, side: int = 8) -> Image:
    return Image("m", works(tiles, side), EACH, (counted if counted is not None else []).append)


def engine_of(
    device: Doubler,
    max_batch: int = 4,
    pixels: int = 1000,
    budget: int = 10**9,
    rest: Callable[[], None] = lambda: None,
) -> Engine:
    return Engine({"m": device}, Policy(max_batch, 0.01), budget_bytes=budget, max_batch_pixels=pixels, rest=rest)


@contextmanager
def running(engine: Engine) -> Iterator[None]:
    thread = threading.Thread(target=engine.run)
    thread.start()
    try:
        yield
    finally:
        engine.stop()
        thread.join()


def finish(engine: Engine, *given: tuple[Image, float, int]) -> list[float]:
    """Run images (with their value and number of tiles) that were all there before the device began."""
    for each, value, tiles in given:
        engine.submit(each, lambda value=value, tiles=tiles: steps(value, tiles))
    with running(engine):
        return [float(each.outcome.result(ENDS_S)) for each, *_ in given]


def test_tiles_of_strangers_share_batches_and_each_gets_its_own_results() -> None:
    device, counted = Doubler(), list[int]()
    one, two = image(3, counted), image(1)
    assert finish(engine_of(device), (one, 1, 3), (two, 5, 1)) == [2 * 2 * (1 + 2 + 3), 2 * 2 * 5]
    assert device.batches == [(Encode, 2), (Predict, 4), (Decode, 2)]
    assert counted == [1, 2, 3]
    assert one.seconds.keys() == {"encode", "predict", "decode"}


def test_an_encode_counts_its_pixels_and_a_decode_those_it_will_make() -> None:
    device = Doubler()
    finish(engine_of(device, pixels=8 * 8), (image(1), 1, 1), (image(1), 5, 1))
    assert device.batches.count((Encode, 1)) == device.batches.count((Decode, 1)) == 2
    assert device.batches.count((Predict, 2)) == 1


def test_a_batch_waits_a_moment_for_an_image_whose_file_is_still_read_and_no_longer() -> None:
    device = Doubler()
    engine, here, late = engine_of(device), image(1), image(1)
    engine.expect(late)
    assert finish(engine, (here, 1, 1)) == [4]
    assert device.batches == [(Encode, 1), (Predict, 1), (Decode, 1)]
    assert not late.outcome.done()


def test_a_wait_counts_from_when_the_device_was_given_the_image_though_it_is_at_another() -> None:
    lasts_s, first, second = 0.1, image(1), image(1)
    device = LongAtTheFirst(lasts_s)
    engine, before = engine_of(device), waited_s()
    device.submits(engine, first, second)
    assert waited_s() - before >= lasts_s


def test_what_lacks_memory_does_not_wait_for_its_batch_yet() -> None:
    lasts_s, first, second = 1.0, image(1), image(1)
    device = LongAtTheFirst(lasts_s)
    engine, before = engine_of(device, budget=lone_bytes(works(1), EACH)), waited_s()
    device.submits(engine, first, second)
    assert waited_s() - before <= lasts_s / 2


class LongAtTheFirst(Doubler):
    """It takes some time for its first batch, from when it was given another image on."""

    def __init__(self, lasts_s: float) -> None:
        self._begun, self._given = threading.Event(), threading.Event()
        super().__init__(before=lambda: self._rest(lasts_s))

    def _rest(self, lasts_s: float) -> None:
        if not self._begun.is_set():
            self._begun.set()
            assert self._given.wait(ENDS_S)
            threading.Event().wait(lasts_s)

    def submits(self, engine: Engine, first: Image, second: Image) -> None:
        """The second while it is at the first; until both are done."""
        engine.submit(first, lambda: steps(1, 1))
        with running(engine):
            assert self._begun.wait(ENDS_S)
            engine.submit(second, lambda: steps(1, 1))
            self._given.set()
            second.outcome.result(ENDS_S)


def waited_s() -> float:
    """Of all Encodes until now, for their batches."""
    samples = next(iter(BATCH_WAIT.collect())).samples
    return sum(s.value for s in samples if s.name.endswith("_sum") and s.labels["stage"] == "encode")


def test_only_the_culprit_fails() -> None:
    good, bad, other = image(2), image(1), image(1)
    engine = engine_of(Doubler())
    engine.submit(bad, lambda: steps(-9, 1))
    assert finish(engine, (good, 1, 2), (other, 2, 1)) == [2 * 2 * (1 + 2), 2 * 2 * 2]
    with pytest.raises(RuntimeError, match="negative"):
        bad.outcome.result()


def test_a_batch_that_runs_out_of_memory_is_run_again_in_halves() -> None:
    device = Doubler(most=2)
    assert finish(engine_of(device), (image(4), 1, 4)) == [2 * 2 * (1 + 2 + 3 + 4)]
    assert device.batches == [(Encode, 1), (Predict, 4), (Predict, 2), (Predict, 2), (Decode, 1)]


def test_an_image_that_runs_out_of_memory_alone_fails_alone() -> None:
    device = Doubler()
    engine, greedy, good = engine_of(device), image(1), image(1)

    def wants_too_much() -> Steps:
        (z,) = yield [Encode(torch.zeros(1, 8, 8))]
        return z.new_empty(10**14)

    engine.submit(greedy, wants_too_much)
    assert finish(engine, (good, 2, 1)) == [8]
    with pytest.raises(OutOfMemory):
        greedy.outcome.result()


def test_a_device_whose_memory_is_gone_gives_all_images_back() -> None:
    device = Doubler(most=0)
    engine = engine_of(device)
    images = [image(1) for _ in range(STARVED + 2)]
    for each in images:
        engine.submit(each, lambda: steps(1, 1))
    with pytest.raises(DeviceLost):
        engine.run()
    late = image(1)
    engine.submit(late, lambda: steps(1, 1))
    ends = [type(each.outcome.exception(ENDS_S)) for each in [*images, late]]
    assert ends == [OutOfMemory] * STARVED + [DeviceLost] * 3


def test_an_error_of_the_device_itself_is_no_image_s_fault() -> None:
    def lost() -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    engine, first, second = engine_of(Doubler(before=lost), max_batch=1), image(1), image(1)
    for each in (first, second):
        engine.submit(each, lambda: steps(1, 1))
    with pytest.raises(DeviceLost):
        engine.run()
    assert "Unavailable" in repr(first.outcome.exception())  # it may have been the cause: it is tried again, alone
    assert isinstance(second.outcome.exception(), DeviceLost)


def test_images_are_started_only_where_they_fit_beside_the_others() -> None:
    large = lone_bytes(works(1, side=64), EACH)
    running_at_once, most = 0, 0

    def counted() -> Steps:
        nonlocal running_at_once, most
        running_at_once += 1
        most = max(most, running_at_once)
        try:
            return (yield from steps(1, 1, side=64))
        finally:
            running_at_once -= 1

    for budget, at_once in ((large, 1), (2 * large, 2), (10 * large, 3)):
        most, engine = 0, engine_of(Doubler(), budget=budget, pixels=10**6)
        images = [image(1, side=64) for _ in range(3)]
        for each in images:
            engine.submit(each, counted)
        with running(engine):
            assert [float(each.outcome.result(ENDS_S)) for each in images] == [4, 4, 4]
        assert most == at_once


def test_a_cancelled_image_costs_at_most_one_more_batch() -> None:
    dropped, kept = image(50), image(1)
    device = Doubler(before=lambda: dropped.outcome.cancel() if len(device.batches) == 3 else None)
    engine = engine_of(device, max_batch=1)
    engine.submit(dropped, lambda: steps(1, 50))
    with running(engine):
        with pytest.raises(CancelledError):
            dropped.outcome.result(ENDS_S)
        engine.submit(kept, lambda: steps(2, 1))
        assert float(kept.outcome.result(ENDS_S)) == 8
    assert len(device.batches) == 4 + 3


def test_a_client_with_one_image_does_not_wait_for_all_of_another_s() -> None:
    device = Doubler(before=lambda: time.sleep(0.001))
    engine = engine_of(device, max_batch=1)
    crowd = [Image("m", works(3), EACH, client="crowd") for _ in range(6)]
    lone = Image("m", works(3), EACH, client="lone")
    ends: list[Image] = []
    for each in [*crowd, lone]:
        each.outcome.add_done_callback(lambda _, each=each: ends.append(each))
    assert finish(engine, *((each, 1, 3) for each in [*crowd, lone])) == [24] * 7
    assert ends.index(lone) <= 1


def test_batches_are_full_at_saturation_whatever_the_sizes() -> None:
    """Images of forty sizes and one to three tiles; sixteen tiles are in hand at any time, as a worker holds them."""
    device = Doubler()
    engine = engine_of(device, max_batch=8, pixels=10**6)
    waiting = [image(1 + number % 3, side=64 + 8 * number) for number in range(40)]
    begun: list[Image] = []

    def feed() -> None:
        in_hand = [each for each in begun if not each.outcome.done()]
        while waiting and sum(each.tiles - each.tiles_done for each in in_hand) < 16:
            each = waiting.pop(0)
            begun.append(each)
            in_hand.append(each)
            engine.submit(each, lambda tiles=each.tiles, side=each.ahead[0].height: steps(1, tiles, side))

    device._before = feed
    feed()
    with running(engine):
        while waiting or not all(each.outcome.done() for each in begun):
            begun[-1].outcome.result(ENDS_S)
    sizes = [size for kind, size in device.batches if kind is Predict]
    assert sum(sizes) == sum(each.tiles for each in begun)
    assert len(begun) == 40
    assert sum(sizes) / len(sizes) >= 0.8 * 8


def test_a_device_without_work_rests_once_and_works_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.worker.engine.REST_S", 0.05)
    rests, rested = list[str](), threading.Semaphore(0)

    def rest() -> None:
        rests.append(threading.current_thread().name)
        rested.release()

    device = Doubler()
    engine = engine_of(device, rest=rest)
    with running(engine):
        assert rested.acquire(timeout=ENDS_S)
        assert not rested.acquire(timeout=0.3)  # once is enough
        worked = image(1)
        engine.submit(worked, lambda: steps(1, 1))
        assert float(worked.outcome.result(ENDS_S)) == 4
        assert rested.acquire(timeout=ENDS_S)
    assert len(rests) == 2
    assert threading.current_thread().name not in rests  # no one else may touch what the device thread runs
