"""The authors' numbers and the pipelines that must reproduce them (tests/data/golden/README.md)."""

import json
import shutil
from pathlib import Path

from model import OMGSRPipeline
from model.family import family_named
from model.files import base_sha256, file_sha256
from model.prompt import load_prompt
from model.variant import Base, Prompt, Variant

GOLDEN = Path(__file__).parent / "data" / "golden"
FAMILY = {"s": "sd", "f": "flux"}


def golden_pipeline(case: str, *, adapters: bool = True) -> OMGSRPipeline:
    letter = case[0]
    meta = json.loads((GOLDEN / f"{case}.json").read_text())
    return OMGSRPipeline.from_pretrained(
        GOLDEN / letter / "base",
        adapters=GOLDEN / letter / "lora" if adapters else None,
        family=FAMILY[letter],
        mid_timestep=meta["mid_timestep"],
        prompt=GOLDEN / letter / "prompt.safetensors",
        tile=meta.get("tile_size_latent", 64),
        overlap=meta.get("tile_overlap_latent", 32),
        process_size=128,
    )


def tiny_variant(models: Path, letter: str) -> Path:
    """A sound variant of random weights, `models`/tiny-s or tiny-f, its base in `models`/bases."""
    folder, base = models / f"tiny-{letter}", models / "bases" / f"tiny--{letter}"
    shutil.copytree(GOLDEN / letter / "lora", folder)
    shutil.copytree(GOLDEN / letter / "base", base)
    shutil.copy(GOLDEN / letter / "prompt.safetensors", folder)
    family = FAMILY[letter]
    Variant(
        name=folder.name,
        family=family,
        base=Base(id=f"tiny/{letter}", sha256=base_sha256(base, family_named(family).components)),
        mid_timestep=195,
        native_size=128,
        process_size=128,
        tile=16,
        overlap=8,
        dtype="float32",
        prompt=Prompt(text="", sha256=file_sha256(folder / "prompt.safetensors")),
        text_length=load_prompt(folder / "prompt.safetensors")["prompt_embeds"].shape[1],
        license="none: random weights",
    ).write(folder)
    return folder
