"""A contact sheet of what training sees, to be looked at before hours are spent on it."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from model.train.config import load_config
from model.train.data import Crops
from model.train.degradation import Degradation
from model.train.pairs import Pairs, samples_of
from model.train.recipe import Recipe
from model.train.twins import Twins

GAP = 8  # white pixels around each picture


def contact_sheet(samples: Crops | Twins, degradation: Degradation, count: int) -> Tensor:
    """[H,W,3] uint8: the first ``count`` pairs as rows, the enlarged LQ at the left and the HQ at the right."""
    x_l, x_h = next(Pairs(samples, degradation, count).stream(0))
    pairs = torch.nn.functional.pad(torch.stack([x_l, x_h], 1), [GAP // 2] * 4, value=1)
    sheet = torch.cat([torch.cat(list(pair), 2) for pair in pairs], 1)
    framed = torch.nn.functional.pad(sheet, [GAP // 2] * 4, value=1)
    return ((framed + 1) * 127.5).round().byte().permute(1, 2, 0)


def preview_recipe(recipe_path: Path, path: Path) -> None:
    """Writes the contact sheet of the recipe in the YAML file `recipe_path`."""
    recipe = load_config(recipe_path, Recipe)
    write_preview(samples_of(recipe), recipe.degradation, path)


def write_preview(samples: Crops | Twins, degradation: Degradation, path: Path, count: int = 8) -> None:
    """Writes the contact sheet of ``count`` pairs as the image ``path``; its folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(contact_sheet(samples, degradation, count).numpy()).save(path)
