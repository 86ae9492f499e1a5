"""The configuration of an OMGSR run: what is trained, on what, by which losses, for how long."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from model.train.config import Strict
from model.train.data import Data
from model.train.degradation import Degradation
from model.train.twins import Folders


class Weights(Strict):
    """λ of each term of eq. 16, and of the authors' later choices; a term of weight 0 is not computed."""

    ldr: float = Field(default=5.0, ge=0, description="latent distribution refinement, eq. 10 and 11")
    mse: float = Field(default=2.0, ge=0, description="squared error of pixels in [-1,1]")
    perceptual: float = Field(default=5.0, ge=0, description="OC-LPIPS, eq. 14, or the distance in its place")
    gan: float = Field(default=0.5, ge=0, description="generator's term of the (OC-)GAN, eq. 15")
    l1: float = Field(default=0.0, ge=0, description="absolute error of pixels; the later release has 0.5, and mse 0")
    structure: float = Field(default=0.0, ge=0, description="DISTS-style structure distance")
    latent: float = Field(default=0.0, ge=0, description="squared error of z_P against z_0: a start without pixels")

    @property
    def pixels(self) -> bool:
        """Whether any term looks at decoded images."""
        return any((self.mse, self.perceptual, self.gan, self.l1, self.structure))


class Perceptual(Strict):
    """What measures perceptual distance, and the files that it needs."""

    kind: Literal["lpips", "mobilenet"] = "lpips"
    chunk: PositiveInt = Field(default=224, description="side of the overlapping chunks, in pixels")
    vgg: Path | None = Field(default=None, description="VGG16's weights, torchvision's vgg16-397923af.pth")
    lpips: Path | None = Field(default=None, description="LPIPS' learned heads, vgg.pth of the package lpips")
    dists: Path | None = Field(default=None, description="DISTS' α and β, weights.pt of the package DISTS_pytorch")
    mobilenet: Path | None = Field(default=None, description="MobileNetV2's weights; null: the installed package's")


class Critic(Strict):
    """The discriminator and its optimizer."""

    kind: Literal["dinov2", "dinov3-convnext", "mobilenet"] = "dinov2"
    backbone: Path | None = Field(default=None, description="folder or file of the frozen backbone's weights")
    chunk: PositiveInt = Field(default=518, description="larger images are judged in overlapping chunks of this side")
    augment: bool = Field(default=True, description="differentiable augmentation")
    lr: PositiveFloat = Field(default=2e-5, description="learning rate of the heads")


class Adapters(Strict):
    """The LoRA adapters."""

    encoder_rank: PositiveInt = 16
    denoiser_rank: PositiveInt = 64
    denoiser_targets: tuple[str, ...] = Field(default=(), description="module names; empty: the authors' choice")
    start: Path | None = Field(default=None, description="a variant's folder whose adapters are trained on")


class Optimization(Strict):
    """AdamW, its schedule, and the precision."""

    steps: PositiveInt = Field(description="optimizer steps")
    batch: PositiveInt = Field(default=1, description="pairs of one process and one micro-step")
    accumulate: PositiveInt = Field(default=4, description="micro-steps of one optimizer step")
    lr: PositiveFloat = Field(default=2e-5, description="peak learning rate")
    encoder_lr_factor: float = Field(default=1.0, ge=0, description="on lr for the encoder's adapter; 0: it rests")
    decoder_lr_factor: float = Field(
        default=0.0,
        ge=0,
        description="on lr for the decoder; 0: frozen, as in the paper; else the variant has its own base",
    )
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup: int = Field(default=0, ge=0, description="steps of linear warm-up")
    schedule: Literal["constant", "cosine"] = "constant"
    clip: PositiveFloat = Field(default=1.0, description="largest norm of the gradient, of each optimizer")
    ema: float = Field(default=0.0, ge=0, lt=1, description="decay of the averaged adapters that are exported; 0: off")
    precision: Literal["no", "bf16"] = Field(default="bf16", description="autocast")
    base_dtype: Literal["float32", "bfloat16"] = Field(default="float32", description="of the frozen base's weights")
    checkpoint_activations: bool = Field(default=False, description="recompute activations, for less memory")
    workers: int = Field(default=0, ge=0, description="processes that read photos, for each training process")
    seed: int = Field(default=0, ge=0)


class Keeping(Strict):
    """What is written on the way, and how often; in optimizer steps."""

    save: PositiveInt = Field(default=500, description="steps between checkpoints")
    keep: PositiveInt = Field(default=3, description="checkpoints that are kept")
    log: PositiveInt = Field(default=20, description="steps between scalars")
    panels: PositiveInt = Field(default=500, description="steps between LQ/SR/HQ panels")


class VariantFields(Strict):
    """What variant.json says beside what the run knows."""

    name: str
    native_size: int = Field(default=512, gt=0, multiple_of=64)
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    color_fix: Literal["adain", "wavelet", "none"] = "adain"
    prompt: str = Field(description="the text behind the prompt's embeddings")
    license: str


class Recipe(Strict):
    """All that `omgsr train` needs. `run` becomes the variant's folder."""

    run: Path = Field(description="checkpoints, logs, and the finished variant")
    family: Literal["sd", "flux"]
    base: Path = Field(description="diffusers folder")
    base_id: str = Field(description="the base's name, e.g. stabilityai/sd-turbo")
    base_revision: str = ""
    prompt: Path = Field(description="safetensors file of the prompt's embeddings")
    data: Data | None = Field(default=None, description="photos that are damaged here; give these or pairs")
    pairs: Folders | None = Field(default=None, description="pairs that were made before")
    crop: int = Field(gt=0, multiple_of=16, description="side of the training images, in pixels")
    degradation: Degradation = Degradation()
    mid_timestep: int | None = Field(default=None, ge=0, lt=1000, description="null: measured by the SNR criterion")
    adapters: Adapters = Adapters()
    weights: Weights = Weights()
    perceptual: Perceptual = Perceptual()
    critic: Critic = Critic()
    optimization: Optimization
    keeping: Keeping = Keeping()
    variant: VariantFields

    @model_validator(mode="after")
    def _something_to_learn(self) -> Self:
        if not (self.weights.pixels or self.weights.latent):
            raise ValueError("weights: no term looks at what the denoiser makes (ldr does not), so it learns nothing")
        if self.optimization.decoder_lr_factor and not self.weights.pixels:
            raise ValueError("optimization.decoder_lr_factor: no term looks at pixels, so the decoder learns nothing")
        if (self.data is None) == (self.pairs is None):
            raise ValueError("give exactly one of data and pairs (null takes away what `extends` brings)")
        if self.crop % self.degradation.scale:
            raise ValueError(f"crop: must be a multiple of degradation.scale, {self.degradation.scale}")
        return self
