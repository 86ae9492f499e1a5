"""From a recipe to an answered request: a finished run's folder is served as it lies."""

import io
from pathlib import Path

import httpx
import pytest
import yaml
from PIL import Image

from model.variant import verify_variant
from tests.running import running_service
from tests.test_train_resume import TRAIN, finish, start
from tests.training import PHOTOS, tiny_recipe, write_recipe


@pytest.mark.parametrize("letter", ["s", "f"])
def test_a_finished_run_is_served(tmp_path: Path, state: Path, letter: str) -> None:
    recipe = tiny_recipe(tmp_path, letter, steps=5)
    recipe["mid_timestep"] = None  # measured, and then served with
    said = finish(start(write_recipe(recipe)))
    run = Path(recipe["run"])
    assert f"omgsr serve --models {run}" in said
    assert verify_variant(run) == []
    card = (run / "README.md").read_text()
    assert all(fact in card for fact in ("coffee.jpg", "5 × ldr", "0.5 × gan", "5 of 1 pairs"))
    with running_service(state, run) as service, Image.open(PHOTOS / "coffee_x4.png") as photo:
        (model,) = httpx.get(f"{service.url}/v1/models").raise_for_status().json()["models"]
        assert model["name"] == "tiny"
        sent = io.BytesIO()
        photo.convert("RGB").resize((40, 30)).save(sent, "PNG")
        files = {"image": ("photo.png", sent.getvalue(), "image/png")}
        answer = httpx.post(f"{service.url}/v1/upscale", files=files, timeout=60).raise_for_status()
    with Image.open(io.BytesIO(answer.content)) as result:
        assert result.size == (160, 120)


def test_a_preview_shows_pairs_without_training(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    finish(start(write_recipe(recipe), *TRAIN, "--preview", str(tmp_path / "pairs.png")))
    with Image.open(tmp_path / "pairs.png") as sheet:
        assert sheet.width > 2 * recipe["crop"]
    assert not (Path(recipe["run"]) / "checkpoints").exists()


def test_an_empty_data_set_is_refused(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    (tmp_path / "empty").mkdir()
    recipe["data"] = {"sources": [str(tmp_path / "empty")]}
    process = start(write_recipe(recipe))
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert f"{tmp_path / 'empty'} holds no images" in said
    assert "Traceback" not in said


def test_a_field_that_does_not_exist_is_named(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    path = write_recipe(recipe)
    path.write_text(yaml.safe_dump({**recipe, "optimization": {**recipe["optimization"], "learning_rate": 1}}))
    process = start(path)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "optimization.learning_rate" in said


def test_a_run_on_pairs_is_a_variant_whose_card_names_them(tmp_path: Path) -> None:
    for name, file in (("lq", "coffee_x4.png"), ("hq", "coffee.jpg")):
        (tmp_path / name).mkdir()
        with Image.open(PHOTOS / file) as image:
            image.convert("RGB").save(tmp_path / name / "coffee.png")
    pairs = {"lq": str(tmp_path / "lq"), "hq": str(tmp_path / "hq")}
    recipe = tiny_recipe(tmp_path, steps=2) | {"data": None, "pairs": pairs, "mid_timestep": None}
    finish(start(write_recipe(recipe)))
    assert verify_variant(Path(recipe["run"])) == []
    card = (Path(recipe["run"]) / "README.md").read_text()
    assert all(fact in card for fact in (*pairs.values(), "pairs made before", "2 of 1 pairs"))
