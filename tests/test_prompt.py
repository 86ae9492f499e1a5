"""The fixed prompt is embedded once by a base's own text encoders (tiny random ones here, in the hub's layout)."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from model.errors import ModelFilesError
from model.prompt import load_prompt
from model.text_encoder import embed_prompt

TOKENS = ["a</w>", "photo</w>", "<|startoftext|>", "<|endoftext|>"]


def clip(base: Path) -> None:
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=len(TOKENS), hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=77, bos_token_id=2, eos_token_id=3, pad_token_id=3,
    )  # fmt: skip
    CLIPTextModel(config).save_pretrained(base / "text_encoder")
    folder = base / "tokenizer"
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(TOKENS)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), model_max_length=77
    ).save_pretrained(folder)


def t5(base: Path) -> None:
    torch.manual_seed(0)
    config = T5Config(vocab_size=4, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    T5EncoderModel(config).save_pretrained(base / "text_encoder_2")
    tokenizer = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "a": 2, "<unk>": 3}, unk_token="<unk>"))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(base / "tokenizer_2")


@pytest.fixture(autouse=True)
def _quiet_encoders() -> None:
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)


def test_s_is_embedded_by_clip(tmp_path: Path) -> None:
    clip(tmp_path)
    embed_prompt(tmp_path, "a photo", tmp_path / "prompt.safetensors")
    (embeds,) = load_file(tmp_path / "prompt.safetensors").values()
    assert embeds.shape == (1, 77, 32)
    again = tmp_path / "again.safetensors"
    embed_prompt(tmp_path, "a photo", again)
    assert torch.equal(load_prompt(again)["prompt_embeds"], embeds)
    embed_prompt(tmp_path, "", again)
    assert not torch.equal(load_prompt(again)["prompt_embeds"], embeds)


def test_f_is_embedded_by_clip_and_t5(tmp_path: Path) -> None:
    clip(tmp_path)
    t5(tmp_path)
    embed_prompt(tmp_path, "a photo", tmp_path / "prompt.safetensors", text_tokens=16)
    tensors = load_prompt(tmp_path / "prompt.safetensors")
    assert tensors["prompt_embeds"].shape == (1, 16, 32)
    assert tensors["pooled_prompt_embeds"].shape == (1, 32)


def test_a_base_without_text_encoders_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFilesError, match=r"lacks tokenizer, text_encoder"):
        embed_prompt(tmp_path, "a photo", tmp_path / "prompt.safetensors")
    assert not (tmp_path / "prompt.safetensors").exists()
