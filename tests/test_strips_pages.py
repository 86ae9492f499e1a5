"""Memory for maps: never twice the same, and what is dropped is taken again before the kernel is asked for more."""

import itertools
import queue
import sys
import threading
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.strips.pages import SLAB, Pages

SIZES = st.integers(1, SLAB // 3)


@given(st.lists(st.tuples(SIZES, st.integers(0, 3)), max_size=30))
def test_tensors_that_live_at_once_do_not_overlap(steps: list[tuple[int, int]]) -> None:
    """Of each step a tensor is made, and another dropped (or none)."""
    pages, alive = Pages(), list[torch.Tensor]()
    for size, drop in steps:
        alive.append(pages((size,), torch.uint8))
        places = sorted((each.data_ptr(), each.data_ptr() + each.numel()) for each in alive)
        assert all(stop <= start for (_, stop), (start, _) in itertools.pairwise(places))
        if drop < len(alive) - 1:
            del alive[drop]


@given(st.lists(SIZES, min_size=1, max_size=10), st.randoms())
def test_what_is_dropped_is_whole_again(sizes: list[int], order) -> None:  # type: ignore[no-untyped-def]
    pages = Pages()
    kept = [pages((size,), torch.uint8) for size in sizes]
    first = kept[0].data_ptr()
    order.shuffle(kept)
    while kept:
        kept.pop()
    assert pages((SLAB,), torch.uint8).data_ptr() == first


def test_a_tensor_outlives_the_pages_that_it_came_of() -> None:
    pages = Pages()
    tensor = pages((1000, 3), torch.float32)
    tensor.fill_(7)
    pages.release()
    other = pages((1000, 3), torch.float32)
    other.zero_()
    assert (tensor == 7).all()
    assert tensor.data_ptr() % 64 == 0


@pytest.fixture
def switch_often() -> Iterator[None]:
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("switch_often")
def test_tensors_may_die_in_another_thread() -> None:
    pages, dying = Pages(), queue.SimpleQueue[torch.Tensor | None]()
    dropper = threading.Thread(target=lambda: [None for _ in iter(dying.get, None)], daemon=True)
    dropper.start()
    alive: list[torch.Tensor] = []
    for turn in range(2000):
        alive.append(pages((1000 + turn % 7,), torch.uint8).fill_(turn % 251))
        if len(alive) > 20:
            oldest = alive.pop(0)
            assert (oldest == (turn - 20) % 251).all()
            dying.put(oldest)
            del oldest
    dying.put(None)
    dropper.join()
