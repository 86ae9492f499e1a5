"""Which photos are taken from a folder, where the results go, and what is refused before any work is done."""

import os
from pathlib import Path

import pytest

from service.errands import appearing, in_format, plan_errands
from service.errors import BadOption
from service.job import UpscaleOptions


def made(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


def planned(source: Path, target: Path, wanted=None, *, overwrite: bool = False) -> dict[str, str]:
    plan = plan_errands(source, target, wanted, overwrite=overwrite)
    return {str(e.source.relative_to(source)): str(e.target.relative_to(target)) for e in plan.errands}


def test_a_folder_is_mirrored(tmp_path: Path) -> None:
    photos = made(tmp_path / "in", "a.b.PNG", "c.jpg", "deep/er/d.webp", ".hidden.png", ".cache/e.png", "notes.txt")
    plan = plan_errands(photos, tmp_path / "out", "jpeg", overwrite=False)
    assert [path.name for path in plan.no_photos] == ["notes.txt"]
    assert planned(photos, tmp_path / "out", "jpeg") == {
        "a.b.PNG": "a.b.jpg",
        "c.jpg": "c.jpg",
        "deep/er/d.webp": "deep/er/d.jpg",
    }


def test_results_that_lie_among_the_photos_are_not_photos(tmp_path: Path) -> None:
    photos = made(tmp_path, "a.png", "out/b.png", "deep/out/c.png")
    assert planned(photos, tmp_path / "out").keys() == {"a.png", "deep/out/c.png"}
    with pytest.raises(BadOption, match="is that of the photos"):
        plan_errands(photos, tmp_path / "deep" / "..", None, overwrite=True)


def test_results_that_exist_are_kept_unless_told_otherwise(tmp_path: Path) -> None:
    photos = made(tmp_path / "in", "a.jpg", "b.jpg")
    out = made(tmp_path / "out", "a.png", "b.png.part")
    plan = plan_errands(photos, out, None, overwrite=False)
    assert [errand.source.name for errand in plan.errands] == ["b.jpg"]
    assert plan.existing == [out / "a.png"]
    assert planned(photos, out, overwrite=True).keys() == {"a.jpg", "b.jpg"}


def test_two_photos_of_one_result_are_refused_and_named(tmp_path: Path) -> None:
    photos = made(tmp_path / "in", "x/a.jpg", "x/a.png", "x/a.txt", "y/a.png", "b.gif", "b.bmp")
    with pytest.raises(BadOption) as refused:
        plan_errands(photos, tmp_path / "out", None, overwrite=True)
    assert refused.value.detail == (
        f"{photos}/b.bmp and {photos}/b.gif would become one file, {tmp_path}/out/b.png (1 more like it)."
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("source", "target", "wanted", "said"),
    [
        ("none", "out", None, "no file or folder"),
        ("in", "file.png", None, "is a file, but"),
        ("in/a.png", "out.tga", None, "does not name a PNG, JPEG"),
        ("in/a.png", "out.png", "jpeg", "does not name a jpeg"),
        ("empty", "out", None, "no photo in the folder"),
        ("in", "file.png/deeper", None, "cannot be made: Not a directory"),
    ],
)
def test_what_cannot_be_is_refused_at_once(tmp_path: Path, source: str, target: str, wanted, said: str) -> None:
    made(tmp_path, "in/a.png", "file.png", "empty/notes.txt")
    with pytest.raises(BadOption, match=said):
        plan_errands(tmp_path / source, tmp_path / target, wanted, overwrite=True)


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_a_photo_is_never_replaced_by_its_result(tmp_path: Path, link) -> None:
    made(tmp_path, "a.png")
    link(tmp_path / "a.png", tmp_path / "same.png")
    with pytest.raises(BadOption, match="would replace the photo"):
        plan_errands(tmp_path / "a.png", tmp_path / "same.png", None, overwrite=True)


def test_a_single_file_may_go_into_a_folder(tmp_path: Path) -> None:
    made(tmp_path, "a.raw", "out/other.png")
    (errand,) = plan_errands(tmp_path / "a.raw", tmp_path / "out", "webp", overwrite=False).errands
    assert errand.target == tmp_path / "out" / "a.webp"


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.png"

    def fail() -> None:
        with appearing(target) as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list((tmp_path / "new").iterdir()) == []
    with appearing(target) as file:
        file.write(b"whole")
        assert not target.exists()
    assert target.read_bytes() == b"whole"
    assert list((tmp_path / "new").iterdir()) == [target]


def test_options_that_do_not_go_with_the_format_are_refused() -> None:
    deep = UpscaleOptions(depth=16)
    assert in_format(deep, "png") == deep
    with pytest.raises(BadOption, match="16 bits per sample need"):
        in_format(deep, "jpeg")
