"""A tiny recipe that trains every loss within seconds: random bases and backbones, one real photo."""

from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

from model.train.losses.mobilenet_v2 import mobilenet_v2_layers
from tests.golden import FAMILY, GOLDEN

MID_TIMESTEP = {"s": 195, "f": 295}
PHOTOS = Path(__file__).parent / "data" / "photos"


def random_mobilenet(folder: Path) -> Path:
    """Weights of a MobileNetV2 that has never seen a photo: enough for a distance and a discriminator to follow."""
    path = folder / "mobilenet.safetensors"
    torch.manual_seed(0)
    save_file({f"features.{name}": tensor for name, tensor in mobilenet_v2_layers().state_dict().items()}, path)
    return path


def tiny_recipe(folder: Path, letter: str = "s", **optimization: Any) -> dict[str, Any]:
    """The whole recipe of the family `letter` as a dict for `Recipe`; its run is `folder`/run."""
    folder.mkdir(parents=True, exist_ok=True)
    mobilenet = str(random_mobilenet(folder))
    return {
        "run": str(folder / "run"),
        "family": FAMILY[letter],
        "base": str(GOLDEN / letter / "base"),
        "base_id": f"tiny/{letter}",
        "prompt": str(GOLDEN / letter / "prompt.safetensors"),
        "data": {"sources": [str(PHOTOS / "coffee.jpg")]},
        "crop": 64,
        "mid_timestep": MID_TIMESTEP[letter],
        "adapters": {"encoder_rank": 4, "denoiser_rank": 4},
        "perceptual": {"kind": "mobilenet", "mobilenet": mobilenet, "chunk": 48},
        "critic": {"kind": "mobilenet", "backbone": mobilenet, "chunk": 48, "lr": 1e-4},
        "optimization": {"steps": 5, "accumulate": 1, "lr": 1e-3, "precision": "no", **optimization},
        "keeping": {"save": 5, "log": 1, "panels": 5},
        "variant": {"name": "tiny", "native_size": 128, "dtype": "float32", "prompt": "", "license": "none"},
    }


def write_recipe(recipe: dict[str, Any]) -> Path:
    """The recipe as a YAML file beside its run."""
    path = Path(recipe["run"]).with_suffix(".yaml")
    path.write_text(yaml.safe_dump(recipe))
    return path
