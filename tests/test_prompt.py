"""The fixed prompt is embedded once by a base's own text encoders (tiny random ones here, in the hub's layout)."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)
from typer.testing import CliRunner

from model import OMGSRPipeline
from model.errors import ModelFilesError
from model.prompt import load_prompt
from model.text_encoder import embed_prompt
from model.variant import Variant, verify_variant
from service.cli import app
from tests.golden import tiny_variant

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
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
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
    embed_prompt(tmp_path, "a photo", tmp_path / "prompt.safetensors", text_length=16)
    tensors = load_prompt(tmp_path / "prompt.safetensors")
    assert tensors["prompt_embeds"].shape == (1, 16, 32)
    assert tensors["pooled_prompt_embeds"].shape == (1, 32)


def test_a_base_without_text_encoders_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFilesError, match=r"lacks tokenizer, text_encoder"):
        embed_prompt(tmp_path, "a photo", tmp_path / "prompt.safetensors")
    assert not (tmp_path / "prompt.safetensors").exists()


def test_a_short_prompt_of_f_is_made_by_the_command(tmp_path: Path) -> None:
    clip(tmp_path)
    t5(tmp_path)
    out = tmp_path / "prompt.safetensors"
    words = ["models", "embed-prompt", str(tmp_path), "a photo", str(out), "--text-length"]
    ran = CliRunner().invoke(app, [*words, "8"])
    assert ran.exit_code == 0, ran.stderr
    assert load_prompt(out)["prompt_embeds"].shape == (1, 8, 32)
    ran = CliRunner().invoke(app, [*words, "1"])
    assert ran.exit_code != 0
    assert "the prompt has 2 tokens, and the text length is 1" in " ".join(ran.stderr.split())


def test_the_length_of_a_prompt_of_s_is_its_encoders(tmp_path: Path) -> None:
    clip(tmp_path)
    with pytest.raises(ModelFilesError, match="give no other"):
        embed_prompt(tmp_path, "a photo", tmp_path / "prompt.safetensors", text_length=16)


@pytest.mark.parametrize(("stated", "wanted"), [(64, 64), (None, 512)])
def test_a_prompt_of_another_length_than_the_variants_is_refused(
    tmp_path: Path, stated: int | None, wanted: int
) -> None:
    folder = tiny_variant(tmp_path, "f")
    Variant.read(folder).model_copy(update={"text_length": stated}).write(folder)
    with pytest.raises(ModelFilesError, match=rf"has 16 tokens, tiny-f was trained with {wanted}.*--text-length"):
        OMGSRPipeline.from_variant(folder)
    assert any("16 tokens" in fault for fault in verify_variant(folder))
