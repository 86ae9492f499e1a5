"""What strips take of the device is what the formula says, whatever the image's height."""

import weakref
from collections.abc import Callable, Iterator

import pytest
import torch
from diffusers import AutoencoderKL
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model.fold.autoencoder import fold_autoencoder
from model.strips.memory import Network, choose_rows, decode_bytes, encode_bytes, host_bytes
from model.strips.pages import Pages
from model.strips.strips import Strips, network_of
from tests.test_strips import small

WIDTH = 4096
HEIGHTS = (256, 1024, 4096)
"""With WIDTH 1, 4 and 16 megapixels."""
ROWS = 256


class Memory(TorchDispatchMode):
    """Peaks, in bytes, of what `allocate` makes (the host's) and of all else that operators make (the device's)."""

    def __init__(self, *present: Tensor) -> None:
        super().__init__()
        self.now, self.peak = {"host": 0, "device": 0}, {"host": 0, "device": 0}
        self._known = {tensor.untyped_storage()._cdata for tensor in present}
        self._side = "device"

    def allocate(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        self._side = "host"
        made = torch.empty(shape, dtype=dtype)
        self._side = "device"
        return made

    def __torch_dispatch__(self, func, _types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = func(*args, **(kwargs or {}))
        for each in tree_leaves(made):
            if isinstance(each, Tensor):
                self._follow(each.untyped_storage())
        return made

    def _follow(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._known:
            return
        self._known.add(storage._cdata)
        self._change(self._side, storage.nbytes())
        weakref.finalize(storage, self._forget, storage._cdata, self._side, storage.nbytes())

    def _change(self, side: str, count: int) -> None:
        self.now[side] += count
        self.peak[side] = max(self.peak[side], self.now[side])

    def _forget(self, key: int, side: str, count: int) -> None:
        self._known.discard(key)
        self._change(side, -count)


def encode_peak(autoencoder: AutoencoderKL, width: int, height: int, rows: int) -> dict[str, int]:
    x = torch.zeros(1, 3, height, width, dtype=autoencoder.dtype)
    with Memory(x, *autoencoder.parameters()) as memory:
        Strips(autoencoder, rows, memory.allocate).encode_mode(x)
    return memory.peak


def decode_peak(autoencoder: AutoencoderKL, width: int, height: int, rows: int) -> dict[str, int]:
    factor = network_of(autoencoder).factor
    z = torch.zeros(1, autoencoder.config.latent_channels, height // factor, width // factor, dtype=autoencoder.dtype)
    with Memory(z, *autoencoder.parameters()) as memory:
        Strips(autoencoder, rows, memory.allocate).decode(z)
    return memory.peak


def full_size() -> AutoencoderKL:
    """Both families' channels; only within a FakeTensorMode, where it has shapes and no numbers."""
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=(128, 256, 512, 512),
    )


@pytest.fixture
def default_dtype(request: pytest.FixtureRequest) -> Iterator[None]:
    """Of all that is made: a fake module cannot be cast."""
    torch.set_default_dtype(request.param)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("default_dtype", "fold"),
    [(torch.float32, lambda _: None), (torch.bfloat16, fold_autoencoder)],
    indirect=["default_dtype"],
    ids=["float32", "bfloat16-folded"],
)
@pytest.mark.usefixtures("default_dtype")
def test_the_peak_is_the_formula_at_1_4_and_16_megapixels(fold: Callable[[AutoencoderKL], None]) -> None:
    with FakeTensorMode():
        autoencoder = full_size()
        fold(autoencoder)
        network = network_of(autoencoder)
        for measure, formula in ((encode_peak, encode_bytes), (decode_peak, decode_bytes)):
            peaks = {height: measure(autoencoder, WIDTH, height, ROWS) for height in HEIGHTS}
            for height, peak in peaks.items():
                assert peak["device"] == pytest.approx(formula(network, WIDTH, height, ROWS), rel=0.15)
                assert peak["host"] <= host_bytes(network, WIDTH, height, ROWS)
            strips_alone = [
                peak["device"]
                for height, peak in peaks.items()
                if peak["device"] > 1.01 * network.attention_bytes(WIDTH, height, ROWS)
            ]
            assert len(strips_alone) > 1
            assert max(strips_alone) <= 1.01 * min(strips_alone), "it grows with the height"


def test_a_tall_image_takes_what_the_attentions_term_says() -> None:
    autoencoder = small((8, 8, 64))
    network = network_of(autoencoder)
    for height in (1024, 2048):
        term = network.attention_bytes(64, height, 64)
        assert decode_bytes(network, 64, height, 64) == term
        assert decode_peak(autoencoder, 64, height, 64)["device"] == pytest.approx(term, rel=0.15)


def test_real_tensors_take_what_shapes_alone_foretell() -> None:
    def peaks() -> list[dict[str, int]]:
        autoencoder = small((8, 16))
        return [encode_peak(autoencoder, 64, 128, 64), decode_peak(autoencoder, 64, 128, 64)]

    real = peaks()
    with FakeTensorMode():
        assert peaks() == [pytest.approx(peak, rel=0.01) for peak in real]


def test_a_map_beyond_all_memory_is_refused() -> None:
    with pytest.raises(MemoryError, match="1,073,741,824 MiB"):
        Pages()((2**48,), torch.float32)


networks = st.builds(Network, st.just((128, 256, 512, 512)), st.sampled_from([2, 4]), st.booleans(), st.booleans())


@given(networks, st.integers(1, 512), st.integers(1, 512), st.integers(0, 2**35))
def test_the_chosen_strips_fit_and_fewer_would_not(network: Network, width: int, height: int, free: int) -> None:
    width, height = 8 * width, 8 * height
    if decode_bytes(network, width, height, 8) > free:
        with pytest.raises(ValueError, match="MiB"):
            choose_rows(network, width, height, free)
        return
    rows = choose_rows(network, width, height, free)
    count = -(-height // rows)
    assert rows % 8 == 0
    assert decode_bytes(network, width, height, rows) <= free
    if count > 1:
        fewer = -(-height // 8 // (count - 1)) * 8
        assert decode_bytes(network, width, height, fewer) > free
