"""`omgsr models pull`: a release comes whole or not at all, and a broken-off one goes on. Against a hub on a socket."""

import fcntl
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from PIL import Image

from model import OMGSRPipeline
from model.variant import Variant, verify_variant
from tests.golden import GOLDEN
from tests.hub import COMMIT, TinyHub, tiny_hub
from tests.weights import adapters, base_f, base_s, omgsr, words

PHOTO = GOLDEN / "s" / "e2e_adain_t195" / "in" / "a32x32.png"
S = ("models", "pull", "omgsr-s-512", "--base", "tiny/s", "--adapters", "hub:authors/omgsr:OMGSR-S")
F = ("--base", "tiny/f", "--adapters", "hub:authors/omgsr@main:OMGSR-F", "--accept-license")


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hub")
    base_s(root / "tiny" / "s")
    base_f(root / "tiny" / "f")
    for letter in "sf":
        adapters(root / "authors" / "omgsr" / f"OMGSR-{letter.upper()}", letter)
    return root


@pytest.fixture
def hub(repositories: Path) -> Iterator[TinyHub]:
    with tiny_hub(repositories) as running:
        yield running


def test_a_release_comes_whole_with_what_it_needs_alone(hub: TinyHub, tmp_path: Path) -> None:
    ran = omgsr(hub, *S, "--into", tmp_path, "--accept-license")
    assert ran.exit_code == 0, ran.stderr
    assert "tiny-licence" in ran.stdout
    assert sorted(hub.fetched()) == sorted(
        [f"OMGSR-S/{part}_lora_adapter/adapter_{name}" for part in ("unet", "vae_encoder")
         for name in ("config.json", "model.safetensors")]
        + ["LICENSE.md", "scheduler/scheduler_config.json", "text_encoder/config.json"]
        + ["text_encoder/model.fp16.safetensors"]
        + [f"{part}/{name}" for part in ("unet", "vae")
           for name in ("config.json", "diffusion_pytorch_model.fp16.safetensors")]
        + [f"tokenizer/{path.name}" for path in (hub.root / "tiny/s/tokenizer").iterdir()]
    )  # fmt: skip
    assert not list(tmp_path.rglob("*encoder/model*")), "the text encoders are not kept"
    assert not any((tmp_path / ".partial").rglob("*.*"))
    folder = tmp_path / "omgsr-s-512"
    assert verify_variant(folder) == []
    variant = Variant.read(folder)
    assert (variant.base.id, variant.base.revision, variant.mid_timestep) == ("tiny/s", COMMIT, 195)
    assert variant.license == "tiny-licence"
    with Image.open(PHOTO) as photo:
        (image,) = OMGSRPipeline.from_variant(folder, fold=True, dtype=torch.float32)([photo], scale=2)
    assert image.size == (64, 64)
    hub.asked.clear()
    assert omgsr(hub, *S, "--into", tmp_path).exit_code == 0
    assert hub.asked == [], "what is there is not fetched again"


def test_a_broken_off_download_goes_on_where_it_stopped(
    hub: TinyHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 2**16)  # it keeps whole chunks, of 10 MB otherwise
    hub.cut_after = 300_000
    ran = omgsr(hub, *S, "--into", tmp_path, "--accept-license")
    assert ran.exit_code == 1
    assert "answers 503. What was fetched is kept: repeat the command" in words(ran.stderr)
    assert not (tmp_path / "omgsr-s-512").exists()
    assert not (tmp_path / "bases").exists()
    (partial,) = tmp_path.rglob("*.partial/**/*.partial")
    kept = partial.stat().st_size
    assert kept == 300_000 // 2**16 * 2**16
    hub.down = False
    hub.asked.clear()
    assert omgsr(hub, *S, "--into", tmp_path).exit_code == 0
    assert set(hub.ranges()) == {f"bytes={kept}-"}
    assert verify_variant(tmp_path / "omgsr-s-512") == []


def test_a_file_with_another_hash_is_refused(hub: TinyHub, tmp_path: Path) -> None:
    hub.corrupt = True
    ran = omgsr(hub, *S, "--into", tmp_path, "--accept-license")
    assert ran.exit_code == 1
    assert "came with another hash" in words(ran.stderr)
    assert not list(tmp_path.rglob("*.safetensors*"))
    hub.corrupt = False
    assert omgsr(hub, *S, "--into", tmp_path, "--accept-license").exit_code == 0


def test_a_gated_base_says_how_to_get_it_and_comes_with_a_token(hub: TinyHub, tmp_path: Path) -> None:
    hub.gated = {"tiny/f"}
    for token in ({}, {"HF_TOKEN": "another"}):
        ran = omgsr(hub, "models", "pull", "omgsr-f-512", *F, "--into", tmp_path, **token)
        assert ran.exit_code == 1
        said = words(ran.stderr)
        assert f"Log in at {hub.url}/tiny/f and accept its terms" in said
        assert f"{hub.url}/settings/tokens" in said
        assert "Set HF_TOKEN" in said
    ran = omgsr(hub, "models", "pull", "omgsr-f-512", *F, "--into", tmp_path, HF_TOKEN="accepted")
    assert ran.exit_code == 0, ran.stderr
    assert not [one for one in hub.asked if one.path.startswith("/cdn/") and one.token], "the token stays at the hub"
    assert not [name for name in hub.fetched() if name.startswith("flux1")]
    assert verify_variant(tmp_path / "omgsr-f-512") == []
    OMGSRPipeline.from_variant(tmp_path / "omgsr-f-512", fold=True)
    hub.asked.clear()
    assert omgsr(hub, "models", "pull", "omgsr-f-1024", *F, "--into", tmp_path).exit_code == 0
    assert not [name for name in hub.fetched() if not name.startswith("OMGSR-F/")], "base and prompt are shared"


def test_a_licence_is_asked_for_once(hub: TinyHub, tmp_path: Path) -> None:
    for said in ("", "n\n"):
        ran = omgsr(hub, *S, "--into", tmp_path, said=said)
        assert ran.exit_code == 1
        assert "the licence of tiny/s was not accepted" in words(ran.stderr)
        assert not [name for name in hub.fetched() if not name.startswith("OMGSR-S/")]
    assert omgsr(hub, *S, "--into", tmp_path, said="y\n").exit_code == 0
    assert json.loads((tmp_path / "licences.json").read_text())["tiny/s"]["licence"] == "tiny-licence"
    again = omgsr(
        hub, "models", "import", GOLDEN / "s" / "lora", "--family", "sd", "--base", "tiny/s", "--into", tmp_path
    )
    assert again.exit_code == 0, again.stderr
    assert "as its owner states" not in again.stdout, "it is not shown again"
    hub.card = {"license": "stricter"}
    shutil.rmtree(tmp_path / "bases")
    ran = omgsr(hub, *S, "--into", tmp_path)
    assert "the licence of tiny/s was not accepted" in words(ran.stderr), "another licence is another question"


def test_offline_uses_what_is_there_and_says_what_is_not(hub: TinyHub, tmp_path: Path) -> None:
    folder = adapters(tmp_path / "adapters", "s")
    offline = ("models", "pull", "omgsr-s-512", "--base", "tiny/s", "--into", tmp_path / "models", "--offline")
    ran = omgsr(None, *offline)
    assert ran.exit_code == 1
    said = words(ran.stderr)
    assert all(part in said for part in ("the base tiny/s: it is not whole in", "--adapters FOLDER"))
    said = words(omgsr(None, *offline, "--adapters", folder).stderr)
    assert all(part in said for part in ("the base tiny/s", "the prompt's embeddings: give --prompt-file"))
    assert omgsr(hub, *S, "--into", tmp_path / "models", "--accept-license").exit_code == 0
    shutil.move(tmp_path / "models" / "omgsr-s-512", tmp_path / "models" / "kept")
    assert omgsr(None, *offline, "--adapters", folder).exit_code == 0
    assert verify_variant(tmp_path / "models" / "omgsr-s-512") == []
    assert omgsr(None, *offline).exit_code == 0, "it is there already"


def test_two_commands_do_not_work_in_one_folder(hub: TinyHub, tmp_path: Path) -> None:
    (tmp_path / ".partial").mkdir()
    with (tmp_path / ".partial" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ran = omgsr(hub, *S, "--into", tmp_path, "--accept-license")
    assert ran.exit_code == 1
    assert "another command is at work" in words(ran.stderr)
    assert hub.asked == []


def test_a_damaged_file_is_named_and_fetched_again(hub: TinyHub, tmp_path: Path) -> None:
    assert omgsr(hub, *S, "--into", tmp_path, "--accept-license").exit_code == 0
    weights = tmp_path / "bases" / "tiny--s" / "vae" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    ran = omgsr(None, "models", "verify", "--models", tmp_path)
    assert ran.exit_code == 1
    assert "(vae/diffusion_pytorch_model.safetensors changed or missing)" in words(ran.stdout)
    hub.asked.clear()
    mended = omgsr(hub, "models", "pull", "omgsr-s-512", "--base", "tiny/s", "--into", tmp_path)
    assert mended.exit_code == 0, mended.stderr
    assert hub.fetched() == ["vae/diffusion_pytorch_model.fp16.safetensors"]
    assert omgsr(None, "models", "verify", "omgsr-s-512", "--models", tmp_path).exit_code == 0


def test_what_cannot_be_known_is_asked_for(hub: TinyHub, tmp_path: Path) -> None:
    for name, options, said in [
        ("omgsr-s-512", ("--base", "tiny/s"), "publish them in a cloud drive"),
        ("omgsr-s-512-later", S[5:], "Stability AI took SD 2.1-base off the hub"),
        ("omgsr-s-512", ("--base", "gone/base", *S[5:]), "has no repository gone/base"),
        ("omgsr-s-512", ("--base", "tiny/s", "--adapters", "hub:tiny/f"), "holds no adapter of the authors' layout"),
        ("omgsr-x", (), "there is no release 'omgsr-x'"),
    ]:
        ran = omgsr(hub, "models", "pull", name, *options, "--into", tmp_path, "--accept-license")
        assert ran.exit_code == 1
        assert said in words(ran.stderr)
    assert not list(tmp_path.glob("omgsr*"))
