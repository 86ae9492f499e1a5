"""Tiny bases and adapters in the layouts that the public ones have, for a tiny hub to serve."""

import json
import shutil
from pathlib import Path

from click.testing import Result
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from service.cli import app
from tests.golden import GOLDEN
from tests.hub import TinyHub
from tests.test_prompt import clip, t5

WEIGHTS = "diffusion_pytorch_model"


def base_s(folder: Path) -> Path:
    """As SD-Turbo lies on the hub: both precisions, text encoder, other kinds of files that nobody should fetch."""
    shutil.copytree(GOLDEN / "s" / "base", folder)
    clip(folder)
    for part, stem in (("unet", WEIGHTS), ("vae", WEIGHTS), ("text_encoder", "model")):
        whole = folder / part / f"{stem}.safetensors"
        halved = {name: tensor.half() for name, tensor in load_file(whole).items()}
        save_file(halved, folder / part / f"{stem}.fp16.safetensors")
        (folder / part / f"{stem}.bin").write_bytes(b"pickle")
    (folder / "tiny.safetensors").write_bytes(b"all in one file")
    (folder / "LICENSE.md").write_text("Do as you like.\n")
    return folder


def base_f(folder: Path) -> Path:
    """As FLUX.1-dev lies on the hub: a transformer in shards, two text encoders, one single file besides."""
    shutil.copytree(GOLDEN / "f" / "base", folder)
    clip(folder)
    t5(folder)
    whole = folder / "transformer" / f"{WEIGHTS}.safetensors"
    tensors = load_file(whole)
    whole.unlink()
    names, places = sorted(tensors), {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        shard = f"{WEIGHTS}-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, whole.with_name(shard))
        places |= dict.fromkeys(part, shard)
    whole.with_name(f"{WEIGHTS}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (folder / "flux1-tiny.safetensors").write_bytes(b"all in one file")
    return folder


def adapters(folder: Path, letter: str) -> Path:
    """The authors' folders of a family."""
    shutil.copytree(GOLDEN / letter / "lora", folder)
    return folder


def omgsr(hub: TinyHub | None, *words: str | Path, said: str = "", **given: str) -> Result:
    """Run a command in this process, against that hub, with the answers `said` on its stdin."""
    env = {"HF_ENDPOINT": hub.url if hub else "http://127.0.0.1:9", "NO_PROXY": "*", "HF_TOKEN": None} | given
    ran = CliRunner().invoke(app, [*map(str, words)], env=env, input=said)
    assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exc_info
    return ran


def words(text: str) -> str:
    """In one line, however the terminal broke it."""
    return " ".join(text.split())
