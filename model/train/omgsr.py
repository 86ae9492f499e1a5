"""OMGSR's networks as they are trained: a base with adapters on the VAE's encoder and on the denoiser."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from model.adapter import DENOISER_ADAPTER, VAE_ADAPTER, find_adapter, restore_adapter
from model.family import family_named
from model.prompt import load_prompt
from model.vae import VAE

CONVOLUTIONS = ("conv", "conv1", "conv2", "conv_in", "conv_out", "conv_shortcut")
ATTENTION = ("to_k", "to_q", "to_v", "to_out.0")
TARGETS = {
    "vae": (*ATTENTION, *CONVOLUTIONS),
    "sd": (*ATTENTION, *CONVOLUTIONS),
    "flux": (
        *(f"attn.{name}" for name in (*ATTENTION, "add_k_proj", "add_q_proj", "add_v_proj", "to_add_out")),
        *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2", "x_embedder"),
    ),
}
"""The modules that the authors adapt, by network."""


class Restored(NamedTuple):
    """What one forward pass of training yields."""

    z_0: Tensor
    """The original's latent [B,C,h,w], by the encoder without its adapter."""
    z_l: Tensor
    """The low-quality image's latent [B,C,h,w], by the encoder with its adapter."""
    z_p: Tensor
    """The one-step prediction from z_l (eq. 12, 13)."""
    x_p: Tensor | None
    """z_p decoded, [B,3,H,W] around [-1,1]; None where no loss looks at pixels."""


class Omgsr(nn.Module):
    """E, the denoiser and D of either family, with LoRA on the first two and D frozen."""

    encoder: PeftModel

    def __init__(
        self,
        family: str,
        base: Path,
        prompt: Path,
        *,
        encoder_rank: int,
        denoiser_rank: int,
        denoiser_targets: Sequence[str] = (),
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        self.family, self.mid_timestep = family, 0
        self.vae = VAE.load(base, None, dtype).to(device)
        embedded = load_prompt(prompt)
        self.text_length: int = embedded["prompt_embeds"].shape[1]
        self.denoiser = family_named(family).load(base, None, embedded, dtype, torch.device(device))
        encoder = adapted(self.vae.autoencoder.encoder, encoder_rank, TARGETS["vae"])
        self.vae.autoencoder.encoder = self.encoder = encoder
        self.network = adapted(self.denoiser.network, denoiser_rank, denoiser_targets or TARGETS[family])
        self.denoiser.network = self.network
        self.decodes, self.resting = True, False

    def adapters(self) -> dict[str, nn.Parameter]:
        """The trained parameters, by name: the adapters', and the decoder's after `train_decoder`."""
        return {name: param for name, param in self.named_parameters() if param.requires_grad}

    def settle(self, mid_timestep: int) -> None:
        """Train at this timestep alone; what depends on nothing else becomes constant (no LoRA sits there)."""
        self.mid_timestep = mid_timestep
        self.denoiser.network = self.network.get_base_model()
        self.denoiser.settle(mid_timestep)
        self.denoiser.network = self.network

    def forward(self, x_l: Tensor, x_h: Tensor) -> Restored:
        """Pairs [B,3,H,W] in [-1,1], both at output size → latents and the restored images."""
        z_0 = self.encode_original(x_h)
        z_l = self.vae.encode(x_l)
        z_p = self.denoiser.step(z_l, self.denoiser(z_l, self.mid_timestep), self.mid_timestep)
        return Restored(z_0, z_l, z_p, self.vae.decode(z_p) if self.decodes else None)

    @torch.no_grad()
    def encode_original(self, x: Tensor) -> Tensor:
        """[B,3,H,W] in [-1,1] → latents by the encoder with its adapter off: z_0 of an original."""
        with self.encoder.disable_adapter():
            z_0 = self.vae.encode(x)
        if self.resting:
            self.rest_encoder()  # peft leaves this context with every adapter trainable
        return z_0

    def checkpoint_activations(self) -> None:
        """Recompute activations in the backward pass instead of keeping them, in all three networks."""
        self.vae.autoencoder.enable_gradient_checkpointing()
        self.network.get_base_model().enable_gradient_checkpointing()

    def rest_encoder(self) -> None:
        """Train the denoiser's adapter alone; LDR, which is about the encoder's, is a constant then."""
        self.resting = True
        self.encoder.requires_grad_(False)

    def train_decoder(self) -> None:
        """Train D too, which the paper freezes: a mini's base is young, and its decoder is what blurs."""
        for part in (self.vae.autoencoder.post_quant_conv, self.vae.autoencoder.decoder):
            if part is not None:
                part.requires_grad_(True)

    def load_adapters(self, folder: Path) -> None:
        """Go on from the adapters of a variant. Raises ModelFilesError unless they fit, in rank and scale too."""
        restore_adapter(self.encoder, find_adapter(folder, VAE_ADAPTER))
        restore_adapter(self.network, find_adapter(folder, DENOISER_ADAPTER))

    def save_adapters(self, folder: Path) -> None:
        """The authors' PEFT folders, in float16."""
        with half_precision(self):
            self.encoder.save_pretrained(folder / VAE_ADAPTER[self.family])
            self.network.save_pretrained(folder / DENOISER_ADAPTER[self.family])
        for readme in folder.glob("*_adapter/README.md"):
            readme.unlink()  # peft writes an empty model card template


def adapted(network: nn.Module, rank: int, targets: Sequence[str]) -> PeftModel:
    """``network`` with LoRA of scale 1 on every target module."""
    config = LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(targets))
    model = get_peft_model(network, config)
    model.peft_config["default"].base_model_name_or_path = None  # a path of the training machine otherwise
    return model


@contextmanager
def half_precision(model: Omgsr) -> Iterator[None]:
    """The adapters of ``model`` in float16 inside, as they were after."""
    adapters = [param for name, param in model.named_parameters() if "lora_" in name]
    kept = [param.data for param in adapters]
    for param in adapters:
        param.data = param.data.half()
    try:
        yield
    finally:
        for param, data in zip(adapters, kept, strict=True):
            param.data = data
