"""`OMGSRPipeline`: load a variant, then encode → one mid-timestep prediction → decode."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from model.adapter import DENOISER_ADAPTER, VAE_ADAPTER, find_adapter
from model.family import Denoiser, family_named
from model.networks import Networks
from model.plan import LATENT, Geometry
from model.prompt import load_prompt
from model.transfer import upload
from model.upscale import Decode, Encode, Op, Predict, Steps, drive, predict, upscale
from model.vae import VAE
from model.variant import FILE as VARIANT_FILE
from model.variant import Variant, check_base, check_prompt, find_base

MAX_BATCH = 4


class OMGSRPipeline:
    """One variant in memory. Deterministic: the posterior's mode is taken and no noise is drawn."""

    def __init__(
        self,
        vae: VAE,
        denoiser: Denoiser,
        geometry: Geometry,
        *,
        mid_timestep: int,
        color_fix: str = "adain",
        variant: Variant | None = None,
    ) -> None:
        if not 0 <= mid_timestep < denoiser.steps:
            raise ValueError(f"mid_timestep must be 0 … {denoiser.steps - 1}, got {mid_timestep}")
        if vae.latent_channels != denoiser.latent_channels:
            raise ValueError(
                f"the VAE has {vae.latent_channels} latent channels, the denoiser {denoiser.latent_channels}"
            )
        self.vae = vae
        self.denoiser = denoiser
        self.geometry = geometry
        self.mid_timestep = mid_timestep
        self.color_fix = color_fix
        self.variant = variant
        self.networks = Networks(vae.encode, lambda z_l: self.denoiser(z_l, mid_timestep), vae.decode)
        """What `execute` runs; a backend may put its own in their place."""

    @classmethod
    def from_pretrained(
        cls,
        base_dir: str | Path,
        *,
        adapters: str | Path | None,
        family: str,
        mid_timestep: int,
        prompt: str | Path | Tensor | dict[str, Tensor],
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        tile: int = 64,
        overlap: int = 32,
        process_size: int = 512,
        color_fix: str = "adain",
        variant: Variant | None = None,
        fold: bool = False,
    ) -> Self:
        """Load a diffusers folder and the authors' adapter folders.

        `adapters` None leaves the base as it is. `prompt`: embeddings [1,T,C], or a safetensors file with
        `prompt_embeds` (and `pooled_prompt_embeds` for F). `tile`, `overlap` in latents, `process_size` in pixels.
        A bare folder says nothing about its base; one with a variant.json does, and another base is refused.
        `fold`: as the method, but what is folded away never takes memory.
        Raises ModelFilesError for files that are missing, damaged or do not fit, ValueError for bad arguments.
        """
        kind, base, on = family_named(family), Path(base_dir), torch.device(device)
        folder = None if adapters is None else Path(adapters)
        if folder and (folder / VARIANT_FILE).is_file():
            check_base(Variant.read(folder), base)
        vae = VAE.load(base, folder and find_adapter(folder, VAE_ADAPTER), dtype).to(on)
        adapter = folder and find_adapter(folder, DENOISER_ADAPTER)
        denoiser = kind.load(base, adapter, load_prompt(prompt), dtype, on, fold_at=mid_timestep if fold else None)
        geometry = Geometry(process_size, tile, overlap, kind.multiple)
        pipe = cls(vae, denoiser, geometry, mid_timestep=mid_timestep, color_fix=color_fix, variant=variant)
        return pipe.fold() if fold else pipe

    @classmethod
    def from_variant(
        cls,
        folder: str | Path,
        *,
        base_dir: str | Path | None = None,
        dtype: torch.dtype | None = None,
        device: str | torch.device = "cpu",
        fold: bool = False,
    ) -> Self:
        """Load a variant folder, after checking that base and prompt are the ones that variant.json names.

        Raises ModelFilesError otherwise, and for files that are missing or damaged.
        """
        folder = Path(folder)
        variant = Variant.read(folder)
        return cls.from_pretrained(
            base_dir or find_base(folder, variant.base.id),
            adapters=folder,
            family=variant.family,
            mid_timestep=variant.mid_timestep,
            prompt=check_prompt(variant, folder),
            dtype=dtype or getattr(torch, variant.dtype),
            device=device,
            tile=variant.tile,
            overlap=variant.overlap,
            process_size=variant.process_size,
            color_fix=variant.color_fix,
            variant=variant,
            fold=fold,
        )

    def fold(self) -> Self:
        """For serving: fold timestep and prompt into the weights and make the VAE cheaper, in place; returns itself.

        Equal to rounding. It can be repeated; the networks cannot be trained any more.
        """
        self.vae.fold()
        self.denoiser.fold(self.mid_timestep)
        return self

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return next(self.vae.parameters()).device

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """[B,3,H,W] in [-1,1], already at output size → scaled latent z_L [B,C,H/8,W/8] float32 (posterior mode)."""
        multiple = self.geometry.multiple
        if x.shape[-1] % multiple or x.shape[-2] % multiple:
            raise ValueError(f"sides must be multiples of {multiple} pixels, got {x.shape[-1]}×{x.shape[-2]}")
        return self._encode(x.to(self.device))

    @torch.no_grad()
    def predict(self, z_l: Tensor) -> Tensor:
        """z_L [B,C,h,w] → z_P, same shape: one step (eq. 12, 13), tiled where the latent is larger than the tile."""
        z_l = z_l.to(self.device)
        return self.step(z_l, self.predict_raw(z_l))

    @torch.no_grad()
    def predict_raw(self, z_l: Tensor) -> Tensor:
        """z_L [B,C,h,w] → the denoiser's own prediction (ε or v) of the same shape, blended where tiled."""
        images = [predict(latent, self.geometry) for latent in z_l.to(self.device)]
        return torch.stack(drive(images, self.execute, MAX_BATCH))

    def step(self, z_l: Tensor, prediction: Tensor) -> Tensor:
        """z_P from z_L and the prediction at the mid-timestep, any equal shapes (eq. 12, 13)."""
        return self.denoiser.step(z_l, prediction, self.mid_timestep)

    @torch.no_grad()
    def decode(self, z_p: Tensor) -> Tensor:
        """Scaled latent [B,C,h,w] → pixels [B,3,8h,8w] float32 in [-1,1]."""
        z_p = z_p.to(self.device)
        # Strips are the VAE's own way, whatever else runs its networks
        in_strips = self.vae.goes_in_strips(z_p.shape[-1] * LATENT, z_p.shape[-2] * LATENT)
        return (self.vae.decode if in_strips else self.networks.decode)(z_p).clamp(-1, 1)

    def upscale(
        self,
        pixels: Tensor,
        *,
        scale: float = 4,
        strength: float = 1.0,
        color_fix: str | None = None,
        deep: bool = False,
    ) -> Steps:
        """The whole way of one image [3,h,w] in [0,1] as a generator of ops, for a caller that batches (the Engine).

        `deep`: the image has more than 256 levels, and they are to be kept.
        """
        return upscale(
            upload(pixels.float(), self.device),
            self.geometry,
            self.step,
            scale=scale,
            strength=strength,
            color_fix=color_fix or self.color_fix,
            deep=deep,
        )

    def rest(self) -> None:
        """Give back the memory that the networks keep between runs; the next one takes it again."""
        self.networks.rest()
        self.vae.rest()

    @torch.no_grad()
    def execute(self, ops: Sequence[Op]) -> list[Tensor]:
        """Run ops of equal `key` as one batch."""
        tensors = [op.tensor for op in ops]
        match ops[0]:
            case Encode():
                return self._by_batch(self._encode, tensors)
            case Predict():
                return list(self.networks.predict(torch.stack(tensors)))
            case Decode():
                return self._by_batch(self.decode, tensors)
        raise TypeError(f"no such op: {ops[0]!r}")

    def _encode(self, x: Tensor) -> Tensor:
        in_strips = self.vae.goes_in_strips(x.shape[-1], x.shape[-2])
        return (self.vae.encode if in_strips else self.networks.encode)(x)

    def _by_batch(self, run: Callable[[Tensor], Tensor], tensors: list[Tensor]) -> list[Tensor]:
        """Through the VAE. A CPU gains nothing by batches of whole images, and its GroupNorm rounds by their size."""
        if self.device.type == "cpu":
            return [run(each[None])[0] for each in tensors]
        return list(run(torch.stack(tensors)))

    @torch.no_grad()
    def __call__(
        self,
        images: Sequence[Image.Image],
        scale: float = 4,
        strength: float = 1.0,
        color_fix: str | None = None,
    ) -> list[Image.Image]:
        """Upscale pictures of any sizes, each to exactly round(scale × size).

        `scale` 1 … 8, also fractions; `color_fix` 'adain', 'wavelet' or 'none', by default the variant's own.
        Raises ValueError for an option out of its range.
        """
        pixels = [to_pixels(image) for image in images]
        steps = [self.upscale(each, scale=scale, strength=strength, color_fix=color_fix) for each in pixels]
        return [to_image(result) for result in drive(steps, self.execute, MAX_BATCH)]


def to_pixels(image: Image.Image) -> Tensor:
    """A picture as [3,h,w] float32 in [0,1]."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255


def to_image(pixels: Tensor) -> Image.Image:
    """[3,h,w] in [0,1] as an 8-bit picture, rounded to the nearest level."""
    return Image.fromarray((pixels * 255).round().byte().permute(1, 2, 0).cpu().numpy())
