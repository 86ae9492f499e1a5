"""Training data: sources of every kind, crops by number, what is skipped, and the preview."""

import io
import json
import logging
import tarfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from model.train.data import Crops, Data, PhotoSet
from model.train.degradation import Degradation
from model.train.pairs import Pairs
from model.train.preview import write_preview

PHOTOS = sorted((Path(__file__).parent / "data" / "photos").glob("*.jpg"))
SIDE = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six small photos of three formats, in a folder and one below it."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    for index, suffix in enumerate(("a.jpg", "b.PNG", "c.webp", "more/d.jpg", "more/e.jpg", "more/f.png")):
        with Image.open(PHOTOS[index]) as image:
            image.convert("RGB").resize((80 + index, 60 + index)).save(folder / suffix)
    (folder / "notes.md").write_text("no photo")
    return folder


def opened(tmp_path: Path, *sources: object, **fields: object) -> PhotoSet:
    return PhotoSet(Data.model_validate({"sources": sources, **fields}), tmp_path / "run")


def names(photos: PhotoSet) -> list[str]:
    return [Path(entry.member or entry.path).name for entry in photos.entries]


def shard(path: Path, files: list[Path]) -> Path:
    """A tar in webdataset's layout: each sample's image beside its label."""
    with tarfile.open(path, "w") as tar:
        for number, file in enumerate(files):
            tar.add(file, f"{number:06d}{file.suffix}")
            label = tarfile.TarInfo(f"{number:06d}.json")
            label.size = 2
            tar.addfile(label, io.BytesIO(b"{}"))
    return path


def everything(photos: PhotoSet, count: int = 12, seed: int = 0) -> list[bytes]:
    crops = Crops(photos, SIDE, seed)
    return [crops[number].x_h.numpy().tobytes() + bytes(str(crops[number].seed), "ascii") for number in range(count)]


def test_folders_lists_manifests_and_globs_give_the_same_photos(folder: Path, tmp_path: Path) -> None:
    expected = ["a.jpg", "b.PNG", "c.webp", "d.jpg", "e.jpg", "f.png"]
    paths = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.suffix not in {"", ".md"}]
    (folder / "list.txt").write_text("# photos\n" + "\n".join(str(path) for path in paths) + "\n\n")
    (tmp_path / "absolute.txt").write_text("\n".join(str(folder / path) for path in paths))
    (tmp_path / "photos.yaml").write_text(yaml.safe_dump([{"path": str(path), "licence": "CC0"} for path in paths]))
    sources = [
        [folder],
        [folder / "list.txt"],
        [tmp_path / "absolute.txt"],
        [{"path": tmp_path / "photos.yaml", "root": folder}],
        [folder / "?.*", folder / "mo*"],
    ]
    sets = [opened(tmp_path, *source) for source in sources]
    assert [names(photos) for photos in sets] == [expected] * len(sources)
    assert len({tuple(everything(photos)) for photos in sets}) == 1


def test_shards_are_walked_once_and_read_at_any_place(folder: Path, tmp_path: Path) -> None:
    files = [folder / "a.jpg", folder / "more" / "d.jpg", folder / "more" / "e.jpg"]
    shard(tmp_path / "lsdir-0.tar", files[:2])
    shard(tmp_path / "lsdir-1.tar", files[2:])
    (tmp_path / "list.txt").write_text("\n".join(map(str, files)))
    plain, shards = opened(tmp_path, tmp_path / "list.txt"), opened(tmp_path, tmp_path / "lsdir-*.tar")
    assert names(shards) == ["000000.jpg", "000001.jpg", "000000.jpg"]
    assert everything(plain) == everything(shards)
    index = tmp_path / "run" / "shards.json"
    kept = json.loads(index.read_text())
    assert [len(members) for _, _, members in kept.values()] == [2, 1]
    written = index.stat().st_mtime_ns
    assert everything(opened(tmp_path, tmp_path / "lsdir-*.tar")) == everything(shards)
    assert index.stat().st_mtime_ns == written
    shard(tmp_path / "lsdir-1.tar", files)
    assert len(opened(tmp_path, tmp_path / "lsdir-*.tar")) == 5


def test_a_limit_takes_the_first_of_its_source_only(folder: Path, tmp_path: Path) -> None:
    photos = opened(tmp_path, {"path": folder, "limit": 2}, folder / "more")
    assert names(photos) == ["a.jpg", "b.PNG", "d.jpg", "e.jpg", "f.png"]


def test_memory_changes_nothing_but_the_speed(folder: Path, tmp_path: Path) -> None:
    fields = {"downscale": (1.0, 1.5), "min_gradient": 0.03, "turn": True}
    streamed, held = (opened(tmp_path, folder, in_memory=held, **fields) for held in (False, True))
    assert everything(streamed) == everything(held)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**31), done=st.integers(0, 3), world=st.integers(1, 3))
def test_resumed_and_shared_runs_draw_the_tail_of_one_whole_run(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, seed: int, done: int, world: int
) -> None:
    photos = opened(tmp_path_factory.getbasetemp(), folder, in_memory=True)
    pairs = Pairs(Crops(photos, SIDE, seed), Degradation(), size=2)
    whole = list(islice(pairs.stream(0), 6))
    for rank in range(world):
        share = Pairs(Crops(photos, SIDE, seed), Degradation(), size=2).stream(done + rank, world)
        for index, (x_l, x_h) in zip(range(done + rank, 6, world), share, strict=False):
            assert torch.equal(x_l, whole[index][0])
            assert torch.equal(x_h, whole[index][1])


def test_workers_give_the_same_pairs_and_leave_torchs_random_state_alone(folder: Path, tmp_path: Path) -> None:
    crops = Crops(opened(tmp_path, folder), SIDE, 7)
    state = torch.get_rng_state()
    alone, helped = (list(islice(Pairs(crops, Degradation(), 4, workers=n).stream(3), 2)) for n in (0, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for one, two in zip(alone, helped, strict=True) for a, b in zip(one, two, strict=True))
    x_l, x_h = alone[0]
    assert x_l.shape == x_h.shape == (4, 3, SIDE, SIDE)
    assert torch.equal(x_h, crops.images(12, 4))
    assert -1 <= x_h.min() < x_h.max() <= 1


def test_crops_are_pieces_of_the_photo_turned_only_as_allowed(folder: Path, tmp_path: Path) -> None:
    with Image.open(folder / "a.jpg") as image:
        photo = np.asarray(image.convert("RGB"))
    windows = np.lib.stride_tricks.sliding_window_view(photo, (SIDE, SIDE, 3))[:, :, 0]
    pieces = {window.tobytes() for row in windows for window in row}
    mirrored = {window[:, ::-1].tobytes() for row in windows for window in row}

    def drawn(**fields: object) -> list[bytes]:
        crops = Crops(opened(tmp_path, folder / "a.jpg", **fields), SIDE, 1)
        return [crops[number].x_h.permute(1, 2, 0).numpy().tobytes() for number in range(40)]

    assert set(drawn(flip=False)) <= pieces
    flipped = drawn()
    assert set(flipped) <= pieces | mirrored
    assert 8 < sum(crop in mirrored for crop in flipped) < 32
    turned = drawn(turn=True)
    assert (
        5 < sum(crop in pieces or crop in mirrored for crop in turned) < 20
    )  # a quarter is neither upended nor swapped


def test_flat_crops_are_redrawn(tmp_path: Path) -> None:
    pixels = np.full((64, 256, 3), 128, np.uint8)
    with Image.open(PHOTOS[0]) as image:
        pixels[:, :64] = np.asarray(image.convert("RGB").resize((64, 64)))
    Image.fromarray(pixels).save(tmp_path / "sky.png")
    plain, picky = (Crops(opened(tmp_path, tmp_path / "sky.png", min_gradient=g), SIDE, 0) for g in (0.0, 0.02))
    flat = [sum(int(crops[number].x_h.float().std() < 1) for number in range(30)) for crops in (plain, picky)]
    assert flat[0] > 12
    assert flat[1] <= 2


def test_what_cannot_be_used_is_named_once_and_replaced(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "text.jpg").write_text("I am no photo")
    (tmp_path / "cut.jpg").write_bytes((folder / "a.jpg").read_bytes()[:900])
    Image.new("RGB", (SIDE - 1, 300)).save(tmp_path / "narrow.png")
    bad = ["text.jpg", "cut.jpg", "gone.jpg", "narrow.png"]
    (tmp_path / "list.txt").write_text("\n".join([*bad, str(folder / "a.jpg")]))
    with caplog.at_level(logging.WARNING):
        photos = opened(tmp_path, tmp_path / "list.txt")
        drawn = everything(photos, 40)
    assert sorted(photos.skipped.reasons) == sorted(str(tmp_path / name) for name in bad)
    assert "31×300 px is less than a crop of 32" in photos.skipped.reasons[str(tmp_path / "narrow.png")]
    assert len(caplog.records) == len(bad)
    again = Crops(opened(tmp_path, tmp_path / "list.txt"), SIDE, 0)
    assert again[39].x_h.numpy().tobytes() == drawn[39][: 3 * SIDE * SIDE]  # knowing the bad ones changes no draw


@pytest.mark.parametrize("cut", [700, 1300, 1600, 2000])
def test_a_damaged_shard_is_named_and_used_up_to_the_damage(folder: Path, tmp_path: Path, cut: int) -> None:
    whole = shard(tmp_path / "whole.tar", [folder / "a.jpg", folder / "more" / "d.jpg"])
    (tmp_path / "cut.tar").write_bytes(whole.read_bytes()[: folder.joinpath("a.jpg").stat().st_size + cut])
    for _ in range(2):  # the second time, the other shards would come from the index
        photos = opened(tmp_path, tmp_path / "whole.tar", tmp_path / "cut.tar")
        assert names(photos) == ["000000.jpg", "000001.jpg", "000000.jpg"]
        assert list(photos.skipped.reasons) == [str(tmp_path / "cut.tar")]


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("nowhere", "nowhere is missing"),
        ("empty", "empty holds no images .looked for .avif"),
        ("none-*.tar", "matches nothing"),
        ("lsdir.tar.gz", "unpack to .tar"),
        ("cut.tar", "cut.tar holds no images"),
    ],
)
def test_an_empty_source_is_an_error_that_says_where_was_looked(tmp_path: Path, name: str, match: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "lsdir.tar.gz").write_bytes(b"\x1f\x8b")
    (tmp_path / "cut.tar").write_bytes(b"ustar")
    with pytest.raises(ValueError, match=match):
        opened(tmp_path, tmp_path / name)


def test_a_set_without_one_usable_photo_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("no photo")
    Image.new("RGB", (SIDE - 1, SIDE)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"none of 2 photos gives a crop of 32 px .*a\.jpg: cannot identify"):
        Crops(opened(tmp_path, tmp_path), SIDE, 0)[0]
    with pytest.raises(ValidationError, match="sources"):
        Data(sources=())


def test_the_preview_shows_the_originals_at_the_right(folder: Path, tmp_path: Path) -> None:
    crops = Crops(opened(tmp_path, folder), SIDE, 0)
    write_preview(crops, Degradation(), tmp_path / "sheets" / "preview.png", count=3)
    with Image.open(tmp_path / "sheets" / "preview.png") as image:
        sheet = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    assert sheet.shape == (3, 3 * (SIDE + 8) + 8, 2 * (SIDE + 8) + 8)
    for row in range(3):
        top = 8 + row * (SIDE + 8)
        left, right = (sheet[:, top : top + SIDE, x : x + SIDE].int() for x in (8, 16 + SIDE))
        assert torch.equal(right, crops[row].x_h.int())
        assert 0 < (left - right).abs().float().mean() < 80
