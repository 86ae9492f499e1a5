"""The plan is what happens: the ops that an image yields are those it was said to need, and so is their memory."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.plan import LATENT, BytesPerPixel, Geometry, Work, held_bytes, lone_bytes, peak_bytes, tile_count, works
from model.upscale import Encode, Op, upscale
from service.worker.image import work_of

geometries = st.builds(
    lambda tile, overlap, multiple: Geometry(tile * LATENT, tile, min(overlap, tile - 1), multiple),
    st.sampled_from([4, 6, 8]),
    st.integers(0, 4),
    st.sampled_from([8, 16]),
)


def result(op: Op) -> torch.Tensor:
    """A tensor of the right shape."""
    _, height, width = op.tensor.shape
    if isinstance(op, Encode):
        return torch.zeros(4, height // LATENT, width // LATENT)
    if work_of(op).kind == "decode":
        return torch.zeros(3, height * LATENT, width * LATENT)
    return torch.zeros_like(op.tensor)


@given(st.tuples(st.integers(1, 40), st.integers(1, 40)), st.sampled_from([1.0, 1.3, 2.0, 4.0, 5.5, 8.0]), geometries)
@settings(max_examples=60, deadline=None)
def test_an_image_yields_the_ops_that_were_planned(size: tuple[int, int], scale: float, geometry: Geometry) -> None:
    pixels = torch.zeros(3, size[1], size[0])
    steps = upscale(pixels, geometry, lambda z_l, _: z_l, scale=scale, strength=1.0, color_fix="none")
    seen, ops = [], next(steps)
    while True:
        (shape,) = {work_of(op) for op in ops}
        seen.append(Work(shape.kind, shape.height, shape.width, len(ops)))
        try:
            ops = steps.send([result(op) for op in ops])
        except StopIteration:
            break
    assert seen == works(size, scale, geometry)
    assert sum(work.count for work in seen if work.kind == "predict") == tile_count(size, scale, geometry)


def test_memory_grows_with_the_batch_and_an_image_needs_what_it_holds_and_its_largest_op() -> None:
    each = BytesPerPixel(encode=10, predict=1, decode=20.5)
    planned = [Work("encode", 10, 20), Work("predict", 8, 8, 9), Work("decode", 10, 20)]
    assert peak_bytes(planned[2], 4, each) == 4 * 200 * 20.5
    assert lone_bytes(planned, each) == held_bytes(planned) + 200 * 20.5
    assert held_bytes(planned) == 200 * 48
