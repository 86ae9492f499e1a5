"""The recipes that come with the project are valid, and say what the paper and the authors' releases say."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from model.errors import ModelFilesError, TrainingError
from model.train.config import load_config
from model.train.objective import build_critic, build_perceptual
from model.train.recipe import Recipe

CONFIGS = Path(__file__).parent.parent / "model" / "configs"
RECIPES = sorted(path for path in CONFIGS.rglob("*.yaml") if not path.stem.endswith(("base", "photos")))


def recipe(name: str) -> Recipe:
    return load_config(CONFIGS / f"{name}.yaml", Recipe)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_valid_and_has_its_own_run(path: Path) -> None:
    runs = [load_config(other, Recipe).run for other in RECIPES if other != path]
    assert load_config(path, Recipe).run not in runs


@pytest.mark.parametrize("name", ["omgsr_s_512", "omgsr_f_512", "omgsr_f_1024"])
def test_the_papers_settings(name: str) -> None:
    paper = recipe(name)
    assert (paper.weights.ldr, paper.weights.mse, paper.weights.perceptual, paper.weights.gan) == (5, 2, 5, 0.5)
    assert (paper.optimization.lr, paper.optimization.batch, paper.optimization.accumulate) == (2e-5, 1, 4)
    assert (paper.perceptual.chunk, paper.critic.chunk, paper.critic.kind) == (224, 518, "dinov2")
    assert (paper.adapters.encoder_rank, paper.adapters.denoiser_rank) == ((16, 64) if "_s_" in name else (64, 64))
    assert paper.mid_timestep == (195 if "_s_" in name else 295)
    assert paper.crop == paper.variant.native_size == int(name[-4:].strip("_"))


def test_the_later_release_swaps_mse_for_l1() -> None:
    for name, t in (("omgsr_s_512_later", 273), ("omgsr_f_512_later", 244)):
        later = recipe(name)
        assert (later.weights.mse, later.weights.l1, later.mid_timestep, later.optimization.lr) == (0, 0.5, t, 5e-5)
        assert later.critic.kind == "dinov3-convnext"


def test_extending_replaces_fields_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        yaml.safe_dump({"extends": str(CONFIGS / "omgsr_s_512.yaml"), "weights": {"gan": 0}, "crop": 256})
    )
    mine = load_config(tmp_path / "mine.yaml", Recipe)
    assert (mine.weights.gan, mine.weights.mse, mine.crop) == (0, 2, 256)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"weights": {"ldr": 5, "mse": 0, "perceptual": 0, "gan": 0}}, "denoiser"),
        ({"degradation": {"scale": 3}}, "multiple of degradation"),
        ({"mid_timestep": 1000}, "mid_timestep"),
        ({"optimization": {"seed": -1}}, "optimization.seed"),
        ({"pairs": {"lq": "lq", "hq": "hq"}}, "exactly one of data and pairs"),
        ({"data": None}, "exactly one of data and pairs"),
    ],
)
def test_a_recipe_that_cannot_train_is_refused(tmp_path: Path, change: dict, match: str) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"extends": str(CONFIGS / "omgsr_s_512.yaml"), **change}))
    with pytest.raises(ValidationError, match=match):
        load_config(tmp_path / "mine.yaml", Recipe)


@pytest.mark.parametrize("text", ["", "- a list", "run: [unclosed", "extends: nowhere.yaml"])
def test_a_file_that_is_no_recipe_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(TrainingError, match=r"(mine|nowhere)\.yaml"):
        load_config(tmp_path / "mine.yaml", Recipe)


def test_a_missing_backbone_is_named_with_its_source() -> None:
    paper = recipe("omgsr_s_512")
    with pytest.raises(ModelFilesError, match=r"backbones/vgg16-397923af\.pth is missing.*torch"):
        build_perceptual(paper.perceptual)
    with pytest.raises(ModelFilesError, match=r"backbones/dinov2-base/config\.json is missing.*facebook/dinov2-base"):
        build_critic(paper.critic)
    with pytest.raises(ModelFilesError, match=r"need critic\.backbone"):
        build_critic(paper.critic.model_copy(update={"backbone": None}))
