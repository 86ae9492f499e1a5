"""The search for the mid-timestep: both criteria, against brute force, the authors' numbers, and from photos."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from torch import Generator, Tensor
from typer.testing import CliRunner

from model import cli
from model.analysis.mid_timestep import LatentStatistics, Schedule, schedule_of, snr_timestep
from model.errors import DataError
from model.vae import VAE
from tests.golden import FAMILY, GOLDEN

PHOTOS = Path(__file__).parent / "data" / "photos"
MINI = Path(__file__).parent.parent / "model" / "weights" / "bases" / "omgsr-s-mini-base"
runner = CliRunner()
app = typer.Typer()
app.command("mid-timestep")(cli.mid_timestep)
app.command("analyze")(cli.analyze)


def schedule(letter: str) -> Schedule:
    return schedule_of(FAMILY[letter], GOLDEN / letter / "base")


def latents(pairs: int, gap: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """z_L and z_0 [pairs,4,8,8] of about unit variance, with mean (z_L − z_0)² near `gap`."""
    generator = Generator().manual_seed(seed)
    z_0, other = (torch.randn(pairs, 4, 8, 8, generator=generator) for _ in range(2))
    agreement = 1 - gap / 2
    return agreement * z_0 + (1 - agreement**2) ** 0.5 * other, z_0


@pytest.mark.parametrize("letter", FAMILY)
def test_eq_9_for_all_timesteps_is_the_mean_over_drawn_noise(letter: str) -> None:
    z_l, z_0 = latents(3, gap=0.5)
    statistics = LatentStatistics(schedule(letter))
    statistics.update(z_l, z_0)
    epsilon = torch.randn(3000, *z_0.shape, generator=Generator().manual_seed(1))
    for t in (0, 195, 295, 600, 999):
        signal, noise = schedule(letter).signal_noise(t)
        drawn = (z_l - (signal * z_0 + noise * epsilon)).square().mean()
        assert statistics.eq9()[t].item() == pytest.approx(drawn.item(), rel=3e-3)


@settings(deadline=None, max_examples=20)
@given(gap=st.floats(0.1, 1.9), seed=st.integers(0, 10**6))
def test_eq_9_never_finds_the_papers_timesteps_in_latents_of_unit_variance(gap: float, seed: int) -> None:
    z_l, z_0 = latents(2, gap, seed)
    z_0 = z_0 / z_0.square().mean().sqrt()
    assume((z_l * z_0).mean() > 0.01)  # two pictures of one scene have something in common
    ddpm, flow = LatentStatistics(schedule("s")), LatentStatistics(schedule("f"))
    ddpm.update(z_l, z_0)
    flow.update(z_l, z_0)
    assert ddpm.timesteps()["eq9"] == 0
    best_sigma = (1 - (z_l * z_0).mean().item()) / 2  # docs/mid-timestep.md
    assert flow.schedule.sigmas[flow.timesteps()["eq9"]].item() == pytest.approx(best_sigma, abs=2e-3)  # type: ignore[union-attr]
    assert flow.timesteps()["eq9"] < 295


@settings(deadline=None, max_examples=20)
@given(letter=st.sampled_from(sorted(FAMILY)), gap=st.floats(0.05, 1.9), seed=st.integers(0, 10**6))
def test_the_closed_form_is_where_one_pairs_snr_gap_is_least(letter: str, gap: float, seed: int) -> None:
    z_l, z_0 = latents(1, gap, seed)
    statistics = LatentStatistics(schedule(letter))
    statistics.update(z_l, z_0)
    distance = (z_l - z_0).square().mean().item()
    found = statistics.timesteps()
    assert statistics.distance == pytest.approx(distance, rel=1e-5)
    assert found["snr"] == snr_timestep(statistics.schedule, distance)
    assert abs(found["snr"] - found["snr-gap"]) <= 1


@pytest.mark.parametrize("letter", FAMILY)
@pytest.mark.parametrize("t", [50, 195, 295, 800])
def test_the_closed_form_finds_the_timestep_of_a_known_noise(letter: str, t: int) -> None:
    signal, noise = schedule(letter).signal_noise(t)
    assert snr_timestep(schedule(letter), (noise / signal).item() ** 2) == t


@settings(deadline=None, max_examples=20)
@given(cuts=st.lists(st.integers(0, 12), max_size=5), seed=st.integers(0, 10**6))
def test_what_is_found_does_not_depend_on_the_batches(cuts: list[int], seed: int) -> None:
    z_l, z_0 = latents(12, gap=0.6, seed=seed)
    whole, split = LatentStatistics(schedule("s")), LatentStatistics(schedule("s"))
    whole.update(z_l, z_0)
    for low, high in zip([0, *sorted(cuts)], [*sorted(cuts), 12], strict=True):
        split.update(z_l[low:high], z_0[low:high])
    assert split.pairs == 12
    assert torch.equal(split.eq9(), whole.eq9())
    assert torch.equal(split.snr_gap(), whole.snr_gap())


def test_the_authors_numbers() -> None:
    golden = load_file(GOLDEN / "util" / "midtimestep_s.safetensors")
    wanted = json.loads((GOLDEN / "util" / "midtimestep_s.json").read_text())
    vae = VAE.load(GOLDEN / "s" / "base", None, torch.float32)
    statistics = LatentStatistics(schedule("s"))
    with torch.no_grad():
        z_l, z_0 = vae.encode(golden["lq"]), vae.encode(golden["hq"])
    assert (z_l - golden["z_L"]).abs().max() <= 5e-5
    statistics.update(z_l, z_0)
    curve = statistics.snr_gap()
    assert torch.allclose(curve.float(), golden["mean_abs_snr_gap_by_t"], rtol=1e-4)
    assert curve.min().item() == pytest.approx(wanted["best_mean_gap"], rel=1e-4)
    assert statistics.timesteps()["snr-gap"] == wanted["best_t"]
    one_each = [LatentStatistics(schedule("s")) for _ in wanted["snr_L"]]
    for one, low, high, snr in zip(one_each, z_l, z_0, wanted["snr_L"], strict=True):
        one.update(low[None], high[None])
        assert high.square().mean().item() / one.distance == pytest.approx(snr, rel=1e-4)


def test_equal_latents_and_no_latents_are_refused() -> None:
    statistics = LatentStatistics(schedule("s"))
    with pytest.raises(DataError, match="no pair"):
        statistics.eq9()
    with pytest.raises(DataError, match=r"pair 1: .* no gap"):
        statistics.update(torch.ones(1, 4, 2, 2), torch.ones(1, 4, 2, 2))


def search(out: Path, *options: str, family: str = "sd") -> dict:
    result = runner.invoke(
        app, ["mid-timestep", "--base", str(MINI), "--family", family, "--crop", "128", "--out", str(out), *options]
    )
    assert result.exit_code == 0, result.output
    with Image.open(out / "mid_timestep.png") as plot:
        assert plot.width > 400
    return yaml.safe_load((out / "mid_timestep.yaml").read_text())


def test_a_search_over_pairs_from_the_command_line(tmp_path: Path) -> None:
    found = search(tmp_path, "--lq", f"{PHOTOS}/*_x4.png", "--hq", f"{PHOTOS}/*.jpg")
    assert found["pairs"] == 6
    assert found["mid_timestep"] == found["timesteps"]["snr"]
    assert found["noise_level"]["alpha_bar"] == pytest.approx(1 / (1 + found["distance"]), abs=1e-3)
    assert found["timesteps"]["eq9"] < 20 < found["mid_timestep"]


def test_a_search_that_damages_photos_itself_is_repeatable(tmp_path: Path) -> None:
    photos = ("--photos", f"{PHOTOS}/c*.jpg")
    first, again = (search(tmp_path / name, *photos, "--seed", "7", family="flux") for name in ("a", "b"))
    assert first == again
    root = first["distance"] ** 0.5
    assert first["noise_level"]["sigma"] == pytest.approx(root / (1 + root), abs=2e-3)
    other = search(tmp_path / "c", *photos, "--seed", "8", "--criterion", "eq9", family="flux")
    assert other["distance"] != first["distance"]
    assert other["mid_timestep"] == other["timesteps"]["eq9"]


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ([], ["--lq", "lq", "--hq", "hq"], "holds no photo"),
        (["lq/a_x4.png", "hq/a.png", "hq/b.png"], ["--lq", "lq", "--hq", "hq"], "b.png: its LQ is missing"),
        (["lq/a_x4.png", "lq/a_x2.png", "hq/a.png"], ["--lq", "lq", "--hq", "hq"], "have one name"),
        (["lq/a.txt.png", "hq/a.txt.png"], ["--lq", "lq", "--hq", "hq"], "do not show the same picture"),
        (["lq/a.png"], ["--photos", "hq"], "holds no photo"),
        (["lq/a.png"], ["--lq", "lq"], "or --photos alone"),
    ],
)
def test_data_that_does_not_fit_is_told_plainly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("lq", "hq"):
        (tmp_path / folder).mkdir()
    for file in files:
        Image.new("RGB", (64, 64) if file.startswith("lq") else (256, 200)).save(file)
    result = runner.invoke(app, ["mid-timestep", "--base", str(MINI), "--family", "sd", "--out", "out", *options])
    assert result.exit_code != 0
    assert message in " ".join(result.output.split())
    assert not Path("out").exists()


def test_the_commands_are_there_without_torch() -> None:
    program = "import sys, model.cli; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_broken_photo_is_named(tmp_path: Path) -> None:
    shutil.copy(PHOTOS / "camera.jpg", tmp_path / "good.jpg")
    (tmp_path / "broken.jpg").write_bytes((PHOTOS / "coffee.jpg").read_bytes()[:3000])
    result = runner.invoke(
        app, ["mid-timestep", "--base", str(MINI), "--family", "sd", "--out", str(tmp_path), "--photos", str(tmp_path)]
    )
    assert result.exit_code == 1
    assert "broken.jpg is no readable picture" in " ".join(result.output.split())
