"""The command line, as a person types it."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from model import OMGSRPipeline
from service.cli import app
from tests.golden import GOLDEN, tiny_variant
from tests.running import OMGSR

PHOTOS = GOLDEN / "s" / "e2e_adain_t195" / "in"


def omgsr(models: Path, *words: str | Path) -> Result:
    """Run a command in this process: a new one would spend its time on loading torch."""
    ran = CliRunner().invoke(app, [*map(str, words)], env={"OMGSR_MODELS": f'["{models}"]'})
    assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exc_info
    return ran


def test_help_names_every_command_and_loads_nothing_heavy() -> None:
    shown = subprocess.run([*OMGSR, "--help"], capture_output=True, text=True, check=True).stdout
    assert all(name in shown for name in ("serve", "api", "worker", "upscale", "models", "jobs"))
    code = "import service.cli, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "redis", "fastapi", "pydantic", "numpy"} & set(loaded)


def test_a_folder_comes_out_with_its_names(tiny_models: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    (source / "deeper").mkdir(parents=True)
    shutil.copy(PHOTOS / "a32x32.png", source / "a.b.png")
    with Image.open(PHOTOS / "a32x32.png") as image:
        image.convert("RGB").save(source / "same.jpg")
        image.save(source / "deeper" / "same.png")
    (source / "notes.txt").write_text("no photo")
    ran = omgsr(tiny_models, "upscale", source, target, "--model", "tiny-s", "--scale", "2")
    assert ran.exit_code == 0, ran.stderr
    assert "skipped, not a photo" in ran.stderr
    made = sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
    assert made == ["a.b.png", "deeper/same.png", "same.png"]
    with Image.open(target / "a.b.png") as image:
        assert image.size == (64, 64)
    (target / "same.png").write_bytes(b"kept")
    (target / "a.b.png").unlink()
    again = omgsr(tiny_models, "upscale", source, target, "--model", "tiny-s", "--scale", "2")
    assert again.exit_code == 0, again.stderr
    assert "skipped, exists already: " in again.stderr
    assert (target / "same.png").read_bytes() == b"kept"
    assert (target / "a.b.png").exists()


def test_a_file_that_fails_is_named_and_the_others_are_made(tiny_models: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    shutil.copy(PHOTOS / "a32x32.png", source / "good.png")
    (source / "bad.png").write_bytes((PHOTOS / "a32x32.png").read_bytes()[:200])
    with (source / "huge.png").open("wb") as huge:  # sparse: refused by its length, never read
        huge.truncate(2**40)
    Image.new("RGB", (20_000, 1)).save(source / "strip.png")
    ran = omgsr(tiny_models, "upscale", source, tmp_path / "out", "--model", "tiny-s", "--format", "webp")
    assert ran.exit_code == 1
    assert "failed: " in ran.stderr
    assert "bad.png" in ran.stderr
    assert "1,099,511,627,776 bytes" in ran.stderr
    assert "20000×1, too long a strip" in ran.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.webp"]
    again = omgsr(tiny_models, "upscale", source, tmp_path / "out", "--model", "tiny-s", "--format", "webp")
    assert again.exit_code == 1
    assert "exists already" in again.stderr


def test_one_photo_is_what_the_pipeline_makes_of_it(tiny_models: Path, tmp_path: Path) -> None:
    made = tmp_path / "made.png"
    ran = omgsr(tiny_models, "upscale", PHOTOS / "b48x36.png", made, "--model", "tiny-s", "--color-fix", "adain")
    assert ran.exit_code == 0, ran.stderr
    pipe = OMGSRPipeline.from_variant(tiny_models / "tiny-s", fold=True)
    pipe.vae.whole_pixels = 0  # on a CPU it goes in strips
    with Image.open(made) as image, Image.open(PHOTOS / "b48x36.png") as photo:
        (expected,) = pipe([photo], scale=4)
        assert np.array_equal(np.asarray(image), np.asarray(expected))


def test_what_is_wrong_is_said_in_words(tiny_models: Path, tmp_path: Path) -> None:
    for words, said in [
        (("upscale", tmp_path / "none.png", tmp_path / "o.png"), "There is no file or folder"),
        (("upscale", PHOTOS / "a32x32.png", tmp_path / "o.tga"), "does not name a"),
        (("upscale", PHOTOS / "a32x32.png", tmp_path / "o.png", "--model", "other"), "There is no model 'other'"),
        (("models", "verify", "--models", tmp_path), "no variant folder"),
    ]:
        ran = omgsr(tiny_models, *words)
        assert ran.exit_code == 1
        assert said in ran.stderr


def test_models_are_listed_and_verified(tiny_models: Path, tmp_path: Path) -> None:
    listed = omgsr(tiny_models, "models", "list")
    assert "tiny-s" in listed.stdout
    assert "tiny-f" in listed.stdout
    assert omgsr(tiny_models, "models", "verify").exit_code == 0
    folder = tiny_variant(tmp_path, "s")
    weights = next(folder.glob("unet_lora_adapter/*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    broken = omgsr(tmp_path, "models", "verify")
    assert broken.exit_code == 1
    assert "NOT sound" in broken.stdout
