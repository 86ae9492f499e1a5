"""Fewer bits only where photos show that it does not matter, and the figure where they do not."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from model import OMGSRPipeline
from model.analysis.quality import psnr
from model.errors import ModelFilesError
from model.fold.linear import as_linear_layers
from model.pipeline import to_pixels
from model.quantize import quantize, quantize_as_checked, quantize_variant, stored_bytes
from model.variant import Quantized, Variant
from service.cli import app
from tests.golden import golden_pipeline

ROOT = Path(__file__).parent.parent
WEIGHTS = ROOT / "model" / "weights"
PHOTOS = ROOT / "tests" / "data" / "photos"


@pytest.fixture
def mini(tmp_path: Path) -> Path:
    """A copy of the bundled variant, for its file is written."""
    folder = tmp_path / "mini"
    shutil.copytree(WEIGHTS / "omgsr-s-mini", folder)
    (folder / "base").symlink_to(WEIGHTS / "bases" / "omgsr-s-mini-base")
    return folder


def test_a_variant_that_passes_says_so_and_is_served_so(mini: Path) -> None:
    report = quantize_variant(mini, "int8", str(PHOTOS / "c*_x4.png"))
    assert report.photos == 2
    assert report.psnr_db >= 40
    assert report.bytes_after < report.bytes_before
    quantized = Variant.read(mini).quantized
    assert quantized
    assert (quantized.kind, quantized.psnr_db) == ("int8", round(report.psnr_db, 2))

    plain, served = (OMGSRPipeline.from_variant(each, fold=True) for each in (WEIGHTS / "omgsr-s-mini", mini))
    assert quantize_as_checked(served) == "int8"
    assert stored_bytes(served.denoiser.network) == report.bytes_after
    assert quantize_as_checked(plain) is None
    unseen = [Image.open(PHOTOS / "rocket_x4.png").convert("RGB")]
    (image,), (expected,) = served(unseen), plain(unseen)
    assert image.tobytes() != expected.tobytes()
    assert psnr(to_pixels(image), to_pixels(expected), peak=1) >= 40


def test_one_that_falls_short_is_refused_with_its_figure(mini: Path) -> None:
    before = (mini / "variant.json").read_text()
    with pytest.raises(ModelFilesError, match=r"int8 is refused: \d\d\.\d dB PSNR .* 90 dB is the least"):
        quantize_variant(mini, "int8", str(PHOTOS / "camera_x4.png"), least_psnr_db=90)
    assert (mini / "variant.json").read_text() == before


@pytest.mark.parametrize("case", ["s/tiled_t195", "f/tiled_t295"])
@torch.no_grad()
def test_linear_weights_of_a_folded_network_shrink_to_a_byte_each(case: str) -> None:
    pipe = golden_pipeline(case).fold()
    network, z_l = pipe.denoiser.network, torch.randn(1, pipe.denoiser.latent_channels, 16, 16)
    bytes_before, before = stored_bytes(network), pipe.predict_raw(z_l)
    as_linear_layers(network)
    weights = sum(each.weight.numel() for each in network.modules() if isinstance(each, torch.nn.Linear))
    quantize(pipe, "int8")
    assert bytes_before - stored_bytes(network) == pytest.approx(3 * weights, rel=0.05)  # less the scale of each row
    assert 0 < (pipe.predict_raw(z_l) - before).norm() < 0.03 * before.norm()


def test_fp8_without_its_hardware_is_refused_with_what_to_do(mini: Path) -> None:
    before = (mini / "variant.json").read_text()
    ran = CliRunner().invoke(
        app, ["models", "quantize", str(mini), "--kind", "fp8", "--photos", str(PHOTOS / "camera_x4.png")]
    )
    assert ran.exit_code == 1
    assert "compute capability 8.9" in ran.stderr
    assert "int8" in ran.stderr
    assert (mini / "variant.json").read_text() == before


def test_fp8_that_was_checked_elsewhere_is_left_off_where_it_cannot_run(mini: Path) -> None:
    checked = Quantized(kind="fp8", psnr_db=43, checked_on="2026-11-24")
    Variant.read(mini).model_copy(update={"quantized": checked}).write(mini)
    assert quantize_as_checked(OMGSRPipeline.from_variant(mini)) is None


def test_a_figure_below_the_least_is_no_variant(mini: Path) -> None:
    path = mini / "variant.json"
    fields = json.loads(path.read_text()) | {"quantized": {"kind": "int8", "psnr_db": 39.9, "checked_on": "2026-11-24"}}
    path.write_text(json.dumps(fields))
    with pytest.raises(ModelFilesError, match="psnr_db"):
        Variant.read(mini)
