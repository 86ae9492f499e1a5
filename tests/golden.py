"""The authors' numbers and the pipelines that must reproduce them (tests/data/golden/README.md)."""

import json
from pathlib import Path

from model import OMGSRPipeline

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
