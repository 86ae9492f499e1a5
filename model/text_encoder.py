"""Embedding the fixed prompt once, with the base's own text encoders. Nothing that serves imports this module."""

from pathlib import Path
from typing import Any

import torch
from diffusers import FluxPipeline, StableDiffusionPipeline
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoTokenizer, CLIPTextModel, CLIPTokenizer, T5EncoderModel

from model.errors import ModelFilesError
from model.variant import FLUX_TEXT_LENGTH


@torch.no_grad()
def embed_prompt(base: Path, text: str, out: Path, text_length: int | None = None) -> None:
    """Embed `text` with the text encoders in the diffusers folder `base` and write it to `out` (safetensors).

    CLIP for S (`text_encoder`), CLIP and T5 for F (`text_encoder_2` too, `text_length` tokens, 512 by default, padding
    unmasked as FLUX was trained). Raises ModelFilesError where the encoders are not in the folder, where the
    text is longer than `text_length`, and where that is given for S, whose prompts all have CLIP's length.
    """
    family = FluxPipeline if (base / "text_encoder_2").is_dir() else StableDiffusionPipeline
    needed = ["tokenizer", "text_encoder"] + (["tokenizer_2", "text_encoder_2"] if family is FluxPipeline else [])
    missing = [name for name in needed if not (base / name).is_dir()]
    if missing:
        raise ModelFilesError(f"{base} lacks {', '.join(missing)}: fetch the base with its text encoders")
    if family is StableDiffusionPipeline and text_length is not None:
        raise ModelFilesError(f"{base} is no FLUX: its prompts have the length of its text encoder, so give no other")
    tensors = _flux(base, text, text_length or FLUX_TEXT_LENGTH) if family is FluxPipeline else _sd(base, text)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_suffix(".partial")
    save_file({name: tensor.float().contiguous() for name, tensor in tensors.items()}, partial)
    partial.replace(out)


def _sd(base: Path, text: str) -> dict[str, Tensor]:
    pipeline: Any = StableDiffusionPipeline(
        vae=None,
        unet=None,
        scheduler=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        tokenizer=CLIPTokenizer.from_pretrained(base / "tokenizer"),
        text_encoder=CLIPTextModel.from_pretrained(base / "text_encoder", use_safetensors=True, dtype=torch.float32),
    )
    embeds, _ = pipeline.encode_prompt(text, "cpu", 1, False)
    return {"prompt_embeds": embeds}


def _flux(base: Path, text: str, text_length: int) -> dict[str, Tensor]:
    pipeline: Any = FluxPipeline(
        vae=None,
        transformer=None,
        scheduler=None,
        tokenizer=CLIPTokenizer.from_pretrained(base / "tokenizer"),
        text_encoder=CLIPTextModel.from_pretrained(base / "text_encoder", use_safetensors=True, dtype=torch.float32),
        tokenizer_2=AutoTokenizer.from_pretrained(base / "tokenizer_2"),
        text_encoder_2=T5EncoderModel.from_pretrained(base / "text_encoder_2", use_safetensors=True),
    )
    needed = len(pipeline.tokenizer_2(text).input_ids)
    if needed > text_length:
        raise ModelFilesError(f"the prompt has {needed} tokens, and the text length is {text_length}: raise it")
    embeds, pooled, _ = pipeline.encode_prompt(text, None, device="cpu", max_sequence_length=text_length)
    return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}
