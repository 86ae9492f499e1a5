"""The releases that have a name: which base, which timestep, size and prompt go together, and the bases' licences.

Free of torch. There are no addresses of adapters here: their authors publish them in a cloud drive, and no lasting
address is known (docs/weights.md).
"""

from dataclasses import dataclass
from typing import Literal

from model.errors import ModelFilesError

AUTHORS = "https://github.com/wuer5/OMGSR"
PAPER_PROMPT = "A high-resolution, 8K, ultra-realistic image with sharp focus, vibrant colors, and natural lighting."


@dataclass(frozen=True)
class Licence:
    """What a base's owner allows, in a line, and where the whole text is."""

    name: str
    terms: str
    address: str


@dataclass(frozen=True)
class Release:
    """What adapters and base must be served with."""

    name: str
    family: Literal["sd", "flux"]
    base: str
    """Hub id; empty where the base has no home of its owner's any more."""
    mid_timestep: int
    size: int
    """Pixels: what it was trained at, and the least short side."""
    prompt: str
    text_length: int | None = None
    """Tokens of the prompt, where the text encoders leave a choice (F); None: 512."""

    @property
    def tile(self) -> int:
        """Latents."""
        return self.size // 8

    @property
    def overlap(self) -> int:
        """Latents."""
        return self.tile // 2


SD_TURBO, FLUX_DEV = "stabilityai/sd-turbo", "black-forest-labs/FLUX.1-dev"

RELEASES = {
    release.name: release
    for release in (
        Release("omgsr-s-512", "sd", SD_TURBO, 195, 512, PAPER_PROMPT),
        Release("omgsr-f-512", "flux", FLUX_DEV, 295, 512, PAPER_PROMPT),
        Release("omgsr-f-1024", "flux", FLUX_DEV, 295, 1024, PAPER_PROMPT),
        Release("omgsr-s-512-later", "sd", "", 273, 512, ""),
        Release("omgsr-f-512-later", "flux", FLUX_DEV, 244, 512, ""),
        Release("omgsr-f-1024-later", "flux", FLUX_DEV, 244, 1024, ""),
    )
}
"""By name: those of the paper, and those that the authors made later (S: on SD 2.1-base)."""

PAPERS = {"sd": "omgsr-s-512", "flux": "omgsr-f-1024"}
"""The paper's release of each family: an import takes from it what is not given."""

LICENCES = {
    SD_TURBO: Licence(
        "Stability AI licence of SD-Turbo",
        "research and non-commercial use; for commercial use see https://stability.ai/license",
        f"https://huggingface.co/{SD_TURBO}",
    ),
    FLUX_DEV: Licence(
        "FLUX.1 [dev] Non-Commercial License",
        "non-commercial use only, and so are adapters made on it; Black Forest Labs sells other licences",
        f"https://huggingface.co/{FLUX_DEV}",
    ),
}
"""By base."""


def release_named(name: str) -> Release:
    """The release `name`. Raises ModelFilesError for a name that is none."""
    if name not in RELEASES:
        raise ModelFilesError(f"there is no release {name!r}: there are {', '.join(RELEASES)}")
    return RELEASES[name]


def same_model(one: str, other: str) -> bool:
    """Whether two hub ids or paths end in one name: mirrors and local copies keep it."""
    return one.rstrip("/").rpartition("/")[2].lower() == other.rstrip("/").rpartition("/")[2].lower()
