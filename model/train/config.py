"""Reading YAML configurations into frozen, self-documenting models that refuse unknown or bad fields."""

from pathlib import Path
from typing import Any, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from model.errors import TrainingError


class Strict(BaseModel):
    """A frozen model: an unknown field is an error, not a silent default."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Stage(Strict):
    """One training run: how long, on what crops, and how fast."""

    minutes: PositiveFloat | None = Field(default=None, description="wall-clock budget, over all resumed runs")
    steps: PositiveInt | None = Field(default=None, description="step budget; give this or minutes")
    crop: tuple[PositiveInt, ...] = Field(description="crop sides in pixels, in equal parts of the budget")
    batch: tuple[PositiveInt, ...] = Field(description="batch size for each crop side")
    lr: PositiveFloat = Field(description="peak learning rate of AdamW")
    muon_lr: PositiveFloat | None = Field(
        None, description="peak learning rate of Muon for the hidden matrices; null: AdamW only"
    )
    lr_factors: dict[str, PositiveFloat] = Field(
        default={}, description="factor on AdamW's rate for parameters whose name starts with the key"
    )
    warmup_steps: int = Field(default=100, ge=0, description="linear warm-up")
    final_lr: float = Field(0.02, ge=0, le=1, description="learning rate at the end, as a share of the peak (cosine)")
    ema: float = Field(0.999, ge=0, lt=1, description="decay of the averaged weights, which are the ones exported")
    bf16: bool = Field(True, description="bfloat16 autocast for the networks; losses and weights stay float32")
    save_minutes: PositiveFloat = Field(default=2.0, description="time between checkpoints")
    log_steps: PositiveInt = Field(default=50, description="steps between progress lines")
    seed: int = Field(default=0, description="seed of crops, degradation and noise; the step number is mixed in")

    @model_validator(mode="after")
    def _one_budget_and_one_batch_per_crop(self) -> Self:
        if (self.minutes is None) == (self.steps is None):
            raise ValueError("give exactly one of minutes and steps")
        if len(self.crop) != len(self.batch):
            raise ValueError("crop and batch need the same length: one batch size for each crop side")
        if any(side % 16 for side in self.crop):
            raise ValueError("crop sides must be multiples of 16 (8 for the VAE, 2 for the denoiser)")
        return self


Config = TypeVar("Config", bound=Strict)


def load_config(path: Path, kind: type[Config]) -> Config:
    """Reads the YAML file at ``path`` as a ``kind``; pydantic's error names each bad field, TrainingError a bad file.

    ``extends: OTHER.yaml``, beside it, is read first: fields given here replace its fields, one by one.
    """
    return kind.model_validate(_read(path))


def _read(path: Path) -> dict[str, Any]:
    try:
        fields: dict[str, Any] | None = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TrainingError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(fields, dict):
        raise TrainingError(f"{path} holds no fields: it must be a YAML mapping")
    other = fields.pop("extends", None)
    return fields if other is None else _merged(_read(path.parent / other), fields)


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    both = {
        name: _merged(under[name], value)
        for name, value in over.items()
        if isinstance(value, dict) and isinstance(under.get(name), dict)
    }
    return under | over | both
