"""Pairs that were made before training: crops that belong together, and folders that do not."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from model.errors import DataError
from model.train.degradation import Degradation, upsample
from model.train.pairs import Pairs
from model.train.twins import Folders, Twins

SIDE, SCALE = 32, 4
SIZES = ((20, 31), (40, 9), (8, 8))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Three pairs whose originals repeat each of the photo's pixels four times both ways."""
    place = tmp_path_factory.mktemp("pairs")
    noise = np.random.default_rng(0)
    for name in ("lq", "hq"):
        (place / name).mkdir()
    for number, size in enumerate(SIZES):
        low = noise.integers(256, size=(*size, 3), dtype=np.uint8)
        Image.fromarray(low).save(place / "lq" / f"{number}.png")
        Image.fromarray(low.repeat(SCALE, 0).repeat(SCALE, 1)).save(place / "hq" / f"{number}.png")
    (place / "hq" / "notes.md").write_text("no photo")
    return Folders(lq=place / "lq", hq=place / "hq", turn=True)


@settings(deadline=None, max_examples=40)
@given(number=st.integers(0, 2**40), seed=st.integers(0, 2**31))
def test_both_crops_show_the_same_place_turned_alike(folders: Folders, number: int, seed: int) -> None:
    low, high = Twins(folders, SIDE, SCALE, seed)[number]
    assert low.shape == (3, SIDE // SCALE, SIDE // SCALE)
    assert torch.equal(high, low.repeat_interleave(SCALE, 1).repeat_interleave(SCALE, 2))


def test_crops_are_turned_only_as_allowed(folders: Folders) -> None:
    square = {"lq": folders.lq, "hq": folders.hq}
    with Image.open(folders.lq / "2.png") as image:
        photo = torch.from_numpy(np.array(image)).permute(2, 0, 1)

    def seen(**fields: bool) -> int:
        twins = Twins(Folders(**square, **fields), SIDE, SCALE, 0)
        crops = {twins[number][0].numpy().tobytes() for number in range(200)}
        ways = [photo, photo.flip(2), photo.flip(1), photo.flip(1, 2)]
        ways += [each.transpose(1, 2) for each in ways]
        return sum(each.contiguous().numpy().tobytes() in crops for each in ways)

    assert [seen(flip=False), seen(), seen(turn=True)] == [1, 2, 8]


def test_a_resumed_run_sees_the_pairs_that_it_would_have_seen(folders: Folders) -> None:
    twins = Twins(folders, SIDE, SCALE, 1)
    whole = list(islice(Pairs(twins, Degradation(), 2).stream(0), 5))
    rest = list(islice(Pairs(twins, Degradation(), 2, workers=1).stream(3), 2))
    for pair, again in zip(whole[3:], rest, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(pair, again, strict=True))
    low, high = twins[6]
    assert torch.equal(whole[3][0][0], upsample(low[None] / 127.5 - 1, SCALE)[0])
    assert torch.equal(whole[3][1][0], high / 127.5 - 1)


def made(place: Path, low: tuple[int, int] | None, high: tuple[int, int] | None) -> Twins:
    """Twins of one pair of black pictures of these sizes (None: there is none)."""
    for name, size in (("lq", low), ("hq", high)):
        (place / name).mkdir()
        if size is not None:
            Image.new("RGB", size).save(place / name / "a.png")
    return Twins(Folders(lq=place / "lq", hq=place / "hq"), SIDE, SCALE, 0)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (None, (40, 40), "no images in .*lq"),
        ((10, 10), None, "no images in .*hq"),
        ((10, 11), (40, 40), r"(?s)a.*40×40"),
        ((20, 20), (40, 40), "a: the original has 40×40 px, 2 times"),
        ((7, 90), (28, 360), "a: the original has 28×360 px.*no less than a crop of 32"),
    ],
)
def test_pairs_that_do_not_fit_are_refused_by_name(
    tmp_path: Path, low: tuple[int, int] | None, high: tuple[int, int] | None, said: str
) -> None:
    with pytest.raises(DataError, match=said):
        made(tmp_path, low, high)


def test_a_photo_without_its_original_is_named(tmp_path: Path) -> None:
    made(tmp_path, (10, 10), (40, 40))
    Image.new("RGB", (10, 10)).save(tmp_path / "lq" / "b.png")
    with pytest.raises(DataError, match=r"Without an original: b\.png"):
        Twins(Folders(lq=tmp_path / "lq", hq=tmp_path / "hq"), SIDE, SCALE, 0)


def test_realsr_s_names_are_pairs(tmp_path: Path) -> None:
    for name, side in (("LR4", 10), ("HR", 40)):
        (tmp_path / name).mkdir()
        Image.new("RGB", (side, side)).save(tmp_path / name / f"Canon_001_{name}.png")
    low, high = Twins(Folders(lq=tmp_path / "LR4", hq=tmp_path / "HR"), SIDE, SCALE, 0)[0]
    assert (low.shape[1:], high.shape[1:]) == ((8, 8), (32, 32))


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    twins = made(tmp_path, (10, 10), (40, 40))
    (tmp_path / "hq" / "a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"hq/a\.png"):
        twins[0]
