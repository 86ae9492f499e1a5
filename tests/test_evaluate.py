"""`omgsr evaluate`: what a person types, the files that it leaves, and that a number is never made up."""

import csv
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from math import inf, isfinite, log10
from pathlib import Path
from types import ModuleType
from urllib.error import URLError

import numpy as np
import pytest
import torch
import typer
from click.testing import Result
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from model.analysis.evaluate import find_pairs
from model.analysis.evaluate_cli import evaluate
from model.analysis.published import published
from model.analysis.quality import psnr_y, ssim_y

PHOTOS = Path(__file__).parent / "data" / "photos"
OF_PYIQA = ("lpips", "dists", "musiq", "maniqa", "clipiqa")
without_pyiqa = pytest.mark.skipif(find_spec("pyiqa") is not None, reason="pyiqa is installed here")


def run(*words: str | Path) -> Result:
    app = typer.Typer()
    app.command()(evaluate)
    ran = CliRunner().invoke(app, [*map(str, words)])
    assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exc_info
    return ran


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def crop(name: str, folder: Path, width: int = 192, height: int = 96) -> None:
    """A corner of a test photo: `folder`/lq/NAME_x4.png and `folder`/hq/NAME.png."""
    with Image.open(PHOTOS / f"{name}_x4.png") as small, Image.open(PHOTOS / f"{name}.jpg") as photo:
        for kind in ("lq", "hq"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        small.crop((0, 0, width // 4, height // 4)).save(folder / "lq" / f"{name}_x4.png")
        photo.crop((0, 0, width, height)).save(folder / "hq" / f"{name}.png")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    crop("coffee", tmp_path)
    crop("hopper", tmp_path)
    return tmp_path


def luma(file: Path, border: int) -> np.ndarray:
    with Image.open(file) as image:
        rgb = np.asarray(image.convert("RGB"), np.float64)[border:-border, border:-border]
    return rgb @ np.array([65.481, 128.553, 24.966]) / 255 + 16


@without_pyiqa
def test_a_model_is_measured_beside_the_baseline_and_the_paper(tiny_models: Path, photos: Path) -> None:
    out = photos / "out"
    given = ("--lq", photos / "lq", "--hq", photos / "hq", "--model", tiny_models / "tiny-s", "--out", out)
    ran = run(*given, "--baseline", "bicubic", "--dataset", "realsr", "--color-fix", "none")
    assert ran.exit_code == 0, ran.stderr
    assert "OMGSR-S" in ran.stdout
    assert "pyiqa is not installed" in ran.stdout

    rows = table(out / "per_image.csv")
    named = [(row["method"], row["image"]) for row in rows]
    assert named == [(method, name) for method in ("tiny-s", "bicubic") for name in ("coffee", "hopper")]
    for row in rows:
        assert all(isfinite(float(row[metric])) for metric in ("psnr", "ssim", "efflite0", "niqe", "seconds"))
        assert {row[metric] for metric in OF_PYIQA} == {"not run"}
        result, original = (luma(file, 4) for file in (out / "images" / row["method"] / f"{row['image']}.png",
                                                        photos / "hq" / f"{row['image']}.png"))  # fmt: skip
        assert float(row["psnr"]) == pytest.approx(10 * log10(255**2 / np.mean((result - original) ** 2)), abs=1e-3)

    summary = table(out / "summary.csv")
    assert [row["method"] for row in summary][:2] == ["tiny-s", "bicubic"]
    assert float(summary[1]["niqe"]) == pytest.approx(np.mean([float(row["niqe"]) for row in rows[2:]]), abs=1e-4)
    assert all(summary[0][metric] == "not run" for metric in (*OF_PYIQA, "fid"))
    (paper,) = [row for row in summary if row["method"] == "OMGSR-F"]
    assert (paper["source"], paper["fid"], paper["efflite0"]) == ("paper, tables 1 and 5", "104.34", "")

    report = (out / "report.md").read_text()
    (line,) = [line for line in report.splitlines() if line.startswith("| tiny-s |")]
    assert line.count("not run") == 6
    assert "colour fix none" in report
    assert "4 pixels cut" in report
    with Image.open(out / "contact_sheet.png") as sheet:
        assert sheet.width == 3 * 192 + 2 * 8


def test_finished_results_are_measured_and_a_perfect_one_is_perfect(photos: Path) -> None:
    given = ("--lq", photos / "lq", "--hq", photos / "hq", "--images", photos / "hq", "--out", photos / "out")
    assert run(*given).exit_code == 0
    for row in table(photos / "out" / "per_image.csv"):
        assert (float(row["psnr"]), float(row["ssim"]), row["seconds"]) == (inf, 1, "")
        assert float(row["efflite0"]) == pytest.approx(0, abs=1e-6)


def test_an_image_that_a_metric_cannot_judge_has_no_number_and_the_mean_is_of_the_others(photos: Path) -> None:
    crop("rocket", photos, 64, 64)
    given = ("--lq", photos / "lq", "--hq", photos / "hq", "--baseline", "bicubic", "--out", photos / "out")
    ran = run(*given)
    rows = {row["image"]: row["niqe"] for row in table(photos / "out" / "per_image.csv")}
    assert rows["rocket"] == "not run"
    assert "NIQE for rocket (bicubic): not run, NIQE needs two blocks" in ran.stdout
    mean = float(table(photos / "out" / "summary.csv")[0]["niqe"])
    assert mean == pytest.approx((float(rows["coffee"]) + float(rows["hopper"])) / 2, abs=1e-4)


def test_pyiqa_is_called_as_it_wants_to_be(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the package, which tests do without: what it would get, and weights that are missing."""

    def count(folder: str, other: str) -> float:
        return 10 * len([*Path(folder).iterdir()]) + len([*Path(other).iterdir()])

    def create_metric(name: str, device: torch.device) -> Callable[..., Tensor | float]:
        made: dict[str, Callable[..., Tensor | float]] = {
            "lpips": lambda image, original: (image - original).abs().mean(),
            "musiq": lambda image: image.min(),
            "clipiqa": lambda image: image.max(),
            "maniqa-pipal": lambda image: image.mean() * float("nan"),
            "fid": count,
        }
        if name not in made:
            raise URLError("no route to the weights")
        return made[name]

    module = ModuleType("pyiqa")
    monkeypatch.setattr(module, "create_metric", create_metric, raising=False)
    monkeypatch.setitem(sys.modules, "pyiqa", module)
    ran = run("--lq", photos / "lq", "--hq", photos / "hq", "--images", photos / "hq", "--out", photos / "out")
    rows = table(photos / "out" / "per_image.csv")
    with Image.open(photos / "hq" / "coffee.png") as image:
        pixels = np.asarray(image)
    assert (rows[0]["lpips"], rows[0]["maniqa"], rows[0]["dists"]) == ("0", "not run", "not run")
    assert float(rows[0]["musiq"]) == pytest.approx(pixels.min() / 255, abs=1e-5)
    assert float(rows[0]["clipiqa"]) == pytest.approx(pixels.max() / 255, abs=1e-5)
    assert table(photos / "out" / "summary.csv")[0]["fid"] == "22"
    assert "DISTS: not run, pyiqa cannot make 'dists'" in ran.stdout
    assert "no route to the weights" in ran.stdout


def test_what_does_not_fit_is_said_in_words(photos: Path) -> None:
    lq, hq = photos / "lq", photos / "hq"
    for name in ("one", "low", "torn", "twice"):
        crop("coffee", photos / name)
    with Image.open(hq / "coffee.png") as image:
        image.crop((0, 0, 192, 90)).save(photos / "low" / "hq" / "coffee.png")
        image.save(photos / "twice" / "hq" / "coffee.jpg")
    (photos / "torn" / "hq" / "coffee.png").write_bytes((hq / "coffee.png").read_bytes()[:5000])

    def sets(name: str) -> tuple[str | Path, ...]:
        return "--lq", photos / name / "lq", "--hq", photos / name / "hq"

    for words, said in [
        (("--lq", lq, "--hq", photos / "one" / "hq", "--baseline", "bicubic"), "Without an original: hopper_x4.png"),
        (("--lq", photos / "one" / "lq", "--hq", hq, "--baseline", "bicubic"), "among the images: hopper.png"),
        (("--lq", lq, "--hq", hq, "--images", photos / "one" / "hq"), "among the images: hopper.png"),
        ((*sets("twice"), "--baseline", "bicubic"), "Of one name: coffee.jpg, coffee.png"),
        ((*sets("low"), "--baseline", "bicubic"), "no scale of 1 … 8 makes 192×90 pixels"),
        ((*sets("one"), "--images", photos / "low" / "hq"), "has 192×90 pixels, its original"),
        ((*sets("torn"), "--baseline", "bicubic"), "cannot be read"),
        (("--lq", photos / "none", "--hq", hq, "--baseline", "bicubic"), "There are no images in"),
        (("--lq", lq, "--hq", hq), "Give a --model or a folder of --images"),
        (("--lq", lq, "--hq", hq, "--model", lq, "--images", hq), "Give a --model or a folder of --images"),
        (("--lq", lq, "--hq", hq, "--model", lq), "is no variant"),
    ]:
        ran = run(*words, "--out", photos / "out")
        assert ran.exit_code == 1
        assert said.lower() in " ".join(ran.stderr.split()).lower()


def test_pairs_are_found_by_the_names_that_data_sets_have(tmp_path: Path) -> None:
    for number, (low, high) in enumerate([("0801x4", "0801"), ("Canon_004_LR4", "Canon_004_HR"), ("a_x4", "a_x1")]):
        lq, hq = tmp_path / f"lq{number}", tmp_path / f"hq{number}"
        for folder, stem, side in ((lq, low, 8), (hq, high, 20)):
            folder.mkdir()
            Image.new("RGB", (side, side)).save(folder / f"{stem}.png")
        (pair,) = find_pairs(lq, hq)
        assert (pair.low.stem, pair.high.stem, pair.scale) == (low, high, 2.5)
    assert [pair.name for pair in find_pairs(PHOTOS, PHOTOS)] == [
        "camera", "coffee", "dandelions", "hopper", "raccoon", "rocket"
    ]  # fmt: skip


def test_psnr_and_ssim_are_what_their_definitions_say() -> None:
    draw = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 32, 40, generator=draw, dtype=torch.float64) - 0.5
    brighter = image + 0.2  # of a range of 2: the luma spans 219 levels
    assert psnr_y(brighter, image).item() == pytest.approx(20 * log10(255 / (0.1 * 219)), abs=1e-6)
    assert ssim_y(image, image).item() == pytest.approx(1)
    framed = image.clone()
    framed[..., :4, :] = 1
    assert psnr_y(framed, image).item() == inf
    assert psnr_y(framed, image, border=0).item() < 30
    noisy = image + torch.randn(image.shape, generator=draw, dtype=torch.float64) / 4
    assert ssim_y(noisy, image, border=0).item() == pytest.approx(slow_ssim(noisy, image), abs=1e-9)


def slow_ssim(first: Tensor, second: Tensor) -> float:
    """Position by position, from Wang et al. 2004."""
    weights = np.array([65.481, 128.553, 24.966])
    a, b = ((each[0].clamp(-1, 1).numpy().transpose(1, 2, 0) + 1) / 2 @ weights + 16 for each in (first, second))
    bell = np.exp(-((np.arange(11) - 5) ** 2) / 4.5)
    window = np.outer(bell, bell) / bell.sum() ** 2
    values = []
    for top in range(a.shape[0] - 10):
        for left in range(a.shape[1] - 10):
            x, y = (each[top : top + 11, left : left + 11] for each in (a, b))
            mx, my = (window * x).sum(), (window * y).sum()
            vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
            both = (window * (x - mx) * (y - my)).sum()
            c1, c2 = 2.55**2, 7.65**2
            values.append((2 * mx * my + c1) * (2 * both + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    return float(np.mean(values))


def test_published_rows_are_the_papers() -> None:
    realsr = {row.method: row for row in published("realsr")}
    assert realsr["OMGSR-S"].scores == {
        "psnr": 25.70, "ssim": 0.7283, "lpips": 0.2896, "dists": 0.2103, "fid": 108.41,
        "niqe": 5.0571, "musiq": 67.71, "maniqa": 0.6544, "clipiqa": 0.6542,
    }  # fmt: skip
    assert (realsr["OMGSR-F"].seconds, realsr["StableSR"].seconds, realsr["StableSR"].steps) == (0.2066, None, 200)
    assert not {"fid", "niqe", "clipiqa"} & realsr["FluxSR"].scores.keys()
    drealsr, div2k = ({row.method: row.scores for row in published(name)} for name in ("drealsr", "div2k"))
    assert (drealsr["OMGSR-F"]["psnr"], drealsr["TSD-SR"]["clipiqa"], "FluxSR" in drealsr) == (29.58, 0.7338, False)
    assert (div2k["OMGSR-S"]["niqe"], div2k["OSEDiff"]["clipiqa"], len(div2k)) == (4.2690, 0.6681, 13)


def test_the_command_alone_loads_nothing_heavy() -> None:
    code = "import model.analysis.evaluate_cli, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "pydantic", "numpy", "PIL"} & set(loaded)
