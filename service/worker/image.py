"""One image in the device's hands, and the ops of it that could run now."""

from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from model.plan import LATENT, BytesPerPixel, Work, held_bytes, lone_bytes, peak_bytes
from model.upscale import Decode, Encode, Op, Steps
from service.worker.batching import BATCH_SIZES, Ready, Stage


class Device(Protocol):
    """What runs a batch of ops of one key: a pipeline."""

    def execute(self, ops: Sequence[Op]) -> list[Tensor]:
        """The results, in the order of the ops."""
        ...


@dataclass(eq=False)
class Image:
    """One image on its way: what it waits for, what it will need, what it has cost."""

    variant: str
    ahead: list[Work]
    """What the device has still to do for it beyond the ops that it waits for; at first all."""
    each: BytesPerPixel
    """Of its variant's networks."""
    on_tile: Callable[[int], None] = lambda _: None
    """Called on the device thread with the number of tiles done."""
    priority: int = 0
    client: str = ""
    weight: float = 1.0
    begin: Callable[[], Steps] | None = None
    """Starts it, on the device thread; None as long as its file is being read."""
    since: float = 0.0
    """When the device was given it: its first ops wait from then on, also while the device is at others."""
    outcome: "Future[Tensor]" = field(default_factory=Future)
    """Cancel it, and the image is dropped before its next batch."""
    seconds: dict[str, float] = field(default_factory=dict)
    """The image's share of the device's time, by stage."""
    steps: Steps | None = None
    """Its generator, once it was started."""
    group: Hashable = None
    """Of the ops that it waits for."""
    tiles_done: int = 0
    results: list[Tensor | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tiles = sum(work.count for work in self.ahead if work.kind == "predict")
        self.held_bytes = held_bytes(self.ahead)
        self.lone_bytes = lone_bytes(self.ahead, self.each)

    def group_of(self, work: Work) -> Hashable:
        """What such ops of this image may share a batch with."""
        return self.variant, work.kind, work.height, work.width


@dataclass(frozen=True, eq=False)
class ReadyOp(Ready):
    """An op of an image, and the place where its result belongs."""

    image: Image
    op: Op
    place: int


def ready_ops(image: Image, ops: Sequence[Op], max_pixels: int, since: float) -> list[ReadyOp]:
    """What the image waits for, since that moment. `max_pixels`: the most in one batch of Encode or Decode."""
    work = work_of(ops[0])
    image.group = image.group_of(work)
    stage = Stage[work.kind.upper()]
    # An image as a whole can be of any size; a tile has the one size of its variant.
    most = BATCH_SIZES[0] if stage is Stage.PREDICT else max(1, max_pixels // work.pixels)
    taken = peak_bytes(work, 1, image.each)
    return [
        ReadyOp(image.group, stage, image.priority, image.client, since, taken, most, image, op, place)
        for place, op in enumerate(ops)
    ]


def work_of(op: Op) -> Work:
    """The op as the plan names it."""
    height, width = op.tensor.shape[-2:]
    match op:
        case Encode():
            return Work("encode", height, width)
        case Decode():
            return Work("decode", height * LATENT, width * LATENT)
    return Work("predict", height * LATENT, width * LATENT)
