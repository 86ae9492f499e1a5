"""Which ops run next, as one batch: a pure function of what is ready, what will be, the memory and the time."""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Generic, TypeVar

PATIENCE_S = 2.0
"""An op that has waited longer goes before all others, whatever its stage or priority."""

BATCH_SIZES = (8, 4, 2, 1)
"""Few shapes: each is compiled, warmed and tuned once."""


class Stage(IntEnum):
    """What sets an image's memory free soonest comes first."""

    DECODE = 0
    PREDICT = 1
    ENCODE = 2

    @property
    def word(self) -> str:
        """As metrics and `Server-Timing` name it."""
        return self.name.lower()


@dataclass(frozen=True, eq=False)
class Ready:
    """What the choice needs to know of an op that could run now."""

    group: Hashable
    """Variant, kind and shape: ops of equal group may share a batch, and are alike in `bytes` and `most`."""
    stage: Stage
    priority: int
    client: str
    since: float
    """From when on it waits for nothing but its turn: seconds on the clock of `now`."""
    bytes: int
    """Device memory that it takes while it runs."""
    most: int
    """The largest batch that it may be part of."""


R = TypeVar("R", bound=Ready)


@dataclass(frozen=True)
class Policy:
    """How large batches may be, and how long an idle device waits for one to fill."""

    max_batch: int
    max_wait_s: float


@dataclass(frozen=True)
class Choice(Generic[R]):
    """The ops to run, the most urgent first; or none, and the time at which to look again (None: there is nothing)."""

    batch: Sequence[R] = ()
    look_again: float | None = None


@dataclass(frozen=True)
class _Candidate(Generic[R]):
    """The batch that a group would make now, and whether it could be a larger one soon."""

    batch: Sequence[R]
    grows: bool
    fills: bool
    """Up to the largest size that it may have."""

    @property
    def first(self) -> R:
        return self.batch[0]

    @property
    def since(self) -> float:
        return min(op.since for op in self.batch)


def pick(
    ready: Sequence[R],
    policy: Policy,
    *,
    free_bytes: int,
    used: Mapping[str, float],
    crowding: Collection[str] = (),
    coming: Mapping[Hashable, int],
    now: float,
) -> Choice[R]:
    """The next batch: overdue ops first, then by stage, priority, the client least served (`used`), age.

    The ops of `crowding` clients, who have much in hand, come after those of the others, unless of higher priority.

    Tiles that could become a larger batch by ops that are `coming` (a number for each group) give way to other work of
    no less right: it brings them, and the device is not idle meanwhile. Where the batch would not be full even then,
    they do so only to work that has waited longer, or is of a client less served: newcomers make no one wait. Encodes
    and Decodes give way to nothing: what one size saves by it does not make up for the wait, and others share no batch.
    Only where nothing else is ready the device waits for what is coming, at most `max_wait_s` from when the batch's
    oldest op became ready.

    Batches take at most `free_bytes`; an op that alone takes more is passed over.
    """

    calm = max((op.priority for op in ready if op.client not in crowding), default=None)

    def gives_way(op: R) -> bool:
        return calm is not None and op.client in crowding and op.priority <= calm

    def urgency(op: R) -> tuple[bool, bool, int, int, float, float]:
        fresh = now - op.since <= PATIENCE_S
        return (fresh, gives_way(op), op.stage, -op.priority, used.get(op.client, 0.0), op.since)

    groups: dict[Hashable, list[R]] = {}
    for op in sorted(ready, key=urgency):
        if op.bytes <= free_bytes:
            groups.setdefault(op.group, []).append(op)
    if not groups:
        return Choice()
    candidates = [_candidate(ops, policy, free_bytes, coming.get(group, 0), now) for group, ops in groups.items()]
    first = candidates[0].first
    peers = [
        each
        for each in candidates
        if each.first.priority >= first.priority and gives_way(each.first) <= gives_way(first)
    ]
    if len(candidates) == 1 and peers[0].grows:
        enough = peers[0].since + policy.max_wait_s
        return Choice(look_again=enough) if now < enough else Choice(peers[0].batch)
    return Choice(_among(peers, used))


def _among(peers: Sequence[_Candidate[R]], used: Mapping[str, float]) -> Sequence[R]:
    """The batch of the first that does not give way; if all do, of the last stage: it brings the most to the others."""

    def turn(candidate: _Candidate[R]) -> tuple[float, float]:
        return used.get(candidate.first.client, 0.0), candidate.since

    for each in peers:
        older = any(turn(other) <= turn(each) for other in peers if other is not each)
        tiles = each.first.stage is Stage.PREDICT
        if not (tiles and (each.fills or (each.grows and older))):
            return each.batch
    return max(peers, key=lambda each: each.first.stage).batch


def _candidate(ops: Sequence[R], policy: Policy, free_bytes: int, coming: int, now: float) -> _Candidate[R]:
    first = ops[0]
    room = min(policy.max_batch, first.most, free_bytes // first.bytes if first.bytes else policy.max_batch)
    full, size = (next(size for size in BATCH_SIZES if size <= most) for most in (room, min(room, len(ops))))
    patient, soon = now - first.since <= PATIENCE_S, len(ops) + coming
    return _Candidate(ops[:size], grows=patient and 2 * size <= min(full, soon), fills=patient and size < full <= soon)
